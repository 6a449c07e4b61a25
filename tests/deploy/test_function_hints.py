"""Hints for a deployment in decorators."""

from __future__ import annotations

import pytest

from cloudq import CloudQ
from cloudq.errors import ConfigurationError
from cloudq.tasks.function_hints import FunctionHints


def test_hints_are_kept_beside_the_limits_of_the_task() -> None:
    app = CloudQ("shop", broker="memory://")

    @app.task(memory=512, timeout=30, max_concurrency=5, concurrency=3, env={"MODE": "fast"})
    def add() -> None: ...

    assert add.policy.function_hints == FunctionHints(
        memory=512, timeout=30, max_concurrency=5, env={"MODE": "fast"}
    )
    assert add.policy.throttle is not None
    assert add.policy.throttle.concurrency is not None


def test_a_task_without_hints_has_none() -> None:
    app = CloudQ("shop", broker="memory://")
    task = app.task(memory=None)(lambda: None)
    assert task.policy.function_hints is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "512"}, "memory is '512': it must be a whole number of MB"),
        ({"memory": True}, "memory is True"),
        ({"timeout": 0}, "timeout is 0: it must be a whole number of seconds from 1 on"),
        ({"provisioned": -1}, "provisioned is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"env": ["A"]}, "env is ['A']: it must be a mapping"),
        ({"env": {"1A": "x"}}, "env has '1A'"),
        ({"env": {"AB": 1}}, "env: AB is 1: it must be a string"),
    ],
)
def test_a_hint_that_cannot_be_is_an_error_at_the_decorator(
    options: dict[str, object], said: str
) -> None:
    app = CloudQ("shop", broker="memory://")
    with pytest.raises(ConfigurationError, match="task ") as error:
        app.task(name="add", **options)(lambda: None)  # type: ignore[call-overload]
    assert said in str(error.value)
    assert "add" not in app.tasks
