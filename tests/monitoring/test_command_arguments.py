"""The arguments of control commands are checked before anybody acts on them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cloudq import CloudQ, ConfigurationError
from cloudq.monitoring.command_arguments import checked
from cloudq.monitoring.commands import Command, make


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        *(
            ("time_limit", {"task_name": "t", "soft": soft})
            for soft in ("5", True, 0, -1, 1e308, float("nan"), float("inf"), [1])
        ),
        ("time_limit", {"task_name": "t", "hard": "x"}),
        ("time_limit", {"task_name": "t", "soft": 5, "hard": 1}),
        ("time_limit", {"task_name": ["t"], "soft": 5}),
        ("time_limit", {"soft": 5}),
        ("time_limit", {"task_name": "t", "sotf": 5}),
        ("rate_limit", {"task_name": "t", "rate_limit": {"a": 1}}),
        ("rate_limit", {"task_name": "t", "rate_limit": "1" * 5000}),
        *(("pool_grow", {"n": n}) for n in (0, -1, 1.5, True, "2", 10**9, 10**30)),
        ("pool_shrink", {"n": None}),
        ("autoscale", {"max": 10**9, "min": 1}),
        ("autoscale", {"max": "4"}),
        *(("add_consumer", {"queue": queue}) for queue in ("", 5, None, ["q"], "a\x1b[31m")),
        ("cancel_consumer", {"queue": {}}),
        ("revoke", {"task_id": 5}),
        ("revoke", {"task_id": [["a"]]}),
        ("revoke", {"task_id": "a", "terminate": "yes"}),
        ("query_task", {"ids": [{}]}),
        ("ping", {"x": 1}),
        ("shutdown", {"x": 1}),
    ],
)
def test_an_argument_of_another_kind_is_refused(command: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^command {command}: "):
        checked(command, arguments)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("time_limit", {"task_name": "t", "soft": 5, "hard": None}),
        ("time_limit", {"task_name": "t", "soft": 0.5, "hard": 9}),
        ("rate_limit", {"task_name": "t", "rate_limit": "10/m"}),
        ("rate_limit", {"task_name": "t", "rate_limit": 0}),
        ("pool_grow", {"n": 2}),
        ("pool_shrink", {}),
        ("autoscale", {"max": 4, "min": None}),
        ("add_consumer", {"queue": "https://sqs.example.org/1/q"}),
        ("revoke", {"task_id": ["a", "b"], "terminate": True, "signal": "SIGKILL"}),
        ("query_task", {"ids": "a"}),
        ("ping", {}),
    ],
)
def test_arguments_of_the_right_kinds_pass(command: str, arguments: dict[str, Any]) -> None:
    assert checked(command, arguments) == arguments


def test_the_caller_hears_of_it_before_it_is_sent() -> None:
    with (
        CloudQ("c", broker="memory://arguments") as app,
        pytest.raises(ConfigurationError, match="n: Input should be a valid integer"),
    ):
        app.control.pool_grow("2")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "change",
    [
        {"expires": "soon"},
        {"sent": None},
        {"arguments": [1]},
        {"name": ["ping"]},
        {"id": 5},
        {"reply": "yes"},
    ],
)
def test_a_stored_command_of_odd_shape_is_none(change: dict[str, Any]) -> None:
    text = make("ping", {}, lasts=9.0, reply=True).to_text()
    assert Command.of(text) is not None
    assert Command.of(orjson.dumps(orjson.loads(text) | change).decode()) is None
