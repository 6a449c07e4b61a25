"""Signatures of a Celery project that are started with options, and changed as dictionaries."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from cloudq.contrib.celery import Celery, chord, group, signature
from cloudq.errors import InvalidArguments
from cloudq.testing import Worker
from cloudq.testing.waiting import PATIENCE
from tests.servers import unique


@pytest.fixture
def app() -> Any:
    return Celery("calls", broker="memory://", backend=f"memory://{unique()}")


class TestStartedWithOptions:
    """`group(...)(countdown=1)` gives options, as in Celery; `delay` gives arguments."""

    def test_of_a_group_and_a_chord(self, app: Any) -> None:
        @app.task
        def show(*args: Any, **kwargs: Any) -> Any:
            return [list(args), kwargs]

        with Worker(app):
            started = group(show.s(1), show.s(2))(0, countdown=0.01)
            assert started.get(timeout=PATIENCE) == [[[0, 1], {}], [[0, 2], {}]]
            whole = chord([show.s(1)], show.s())
            for result in (
                whole(countdown=0.01),
                chord([show.s(1)])(show.s(), countdown=0.01),
                chord([show.s(1)])(body=show.s()),
                chord([show.s(1)], show.s("other"))(show.s()),
            ):
                assert result.get(timeout=PATIENCE) == [[[[[1], {}]]], {}]
            named = group(show.s(1)).delay(k=3)
            assert named.get(timeout=PATIENCE) == [[[1], {"k": 3}]]
            with pytest.raises(InvalidArguments, match="'k'"):
                group(show.s(1))(k=3)
            with pytest.raises(InvalidArguments, match="body"):
                chord([show.s(1)])()

    def test_here_and_now(self, app: Any) -> None:
        @app.task
        def boom(x: int) -> int:
            return 1 // x

        assert boom.s(1).apply(task_id="mine").id == "mine"
        assert boom.s().apply((1,)).get() == 1
        assert boom.s(0).apply().state == "FAILURE"
        for node in (boom.s(0), group(boom.s(0)), boom.s(1) | boom.si(0)):
            with pytest.raises(ZeroDivisionError):
                node.apply(throw=True)


def test_options_that_are_changed_in_place_are_the_signatures(app: Any) -> None:
    @app.task
    def show(*args: Any) -> Any:
        return list(args)

    call = show.s(1)
    call.link(show.s())
    call.freeze("mine")
    options = call["options"]
    options["queue"] = "a"
    options.update(countdown=2)
    assert options.setdefault("headers", {"a": "b"}) == {"a": "b"}
    assert options.setdefault("queue", "other") == "a"
    options["link"].append(show.si(2))
    assert options.pop("task_id") == "mine"
    del options["countdown"]
    assert (call.options, call.id) == ({"queue": "a", "headers": {"a": "b"}}, None)
    assert [each["args"] for each in call.links] == [(), (2,)]
    assert json.loads(json.dumps(call))["options"]["queue"] == "a"
    assert type(copy.copy(options)) is dict


def test_a_dictionary_without_immutable_is_a_signature(app: Any) -> None:
    made: dict[str, Any] = {
        "task": "show",
        "args": [1],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
    }
    read = signature(made, app=app)
    assert (read.args, read.immutable) == ((1,), False)
    assert signature({"task": "show", "subtask_type": None}, app=app).args == ()
