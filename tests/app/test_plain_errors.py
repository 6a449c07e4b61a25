"""Errors of the Python API that name the fault, and what to write instead."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from cloudq import CloudQ, chord
from cloudq.canvas.graph import as_json, as_text, graph_of
from cloudq.driver import Outgoing
from cloudq.errors import DecodeError, InvalidArguments
from cloudq.testing import drain


@dataclass
class Point:
    """A value that comes back by the hint of its task."""

    x: int


@pytest.fixture
def app() -> CloudQ:
    return CloudQ("shop", broker="memory://", backend="memory://")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("acks_late", "a message is always acknowledged after its task has ended$"),
        ("max_retires", r"did you mean max_retries\?$"),
        ("queue_name", r"did you mean queue\?$"),
        ("zzz", "known: name, queue, priority"),
    ],
)
def test_an_unknown_task_option_says_what_to_do(app: CloudQ, option: str, says: str) -> None:
    with pytest.raises(TypeError, match=f"there is no task option '{option}': .*{says}"):
        app.task(**{option: 1})  # type: ignore[call-overload]


def test_arguments_that_are_no_list_are_told_with_the_list(app: CloudQ) -> None:
    task: Any = app.task(name="add")(lambda x, y: x + y)
    with pytest.raises(InvalidArguments, match=r"two arguments where .* write \[1, 2\]"):
        task.apply_async(1, 2)
    with pytest.raises(InvalidArguments, match=r"not an int: a single one is written .value., and"):
        task.apply_async(1)
    with pytest.raises(InvalidArguments, match="not a list: all positional ones go into one list"):
        task.apply_async([1], [2])
    with pytest.raises(InvalidArguments, match=r"there is no parameter 'z'$"):
        task.delay(1, z=2)
    paint: Any = app.task(name="paint")(lambda x, colour="red": colour)
    with pytest.raises(InvalidArguments, match=r"no parameter 'colur': did you mean colour\?$"):
        paint.delay(1, colur="blue")
    with pytest.raises(InvalidArguments, match="missing a required argument: 'y'"):
        task.delay(1)


def test_settings_are_told_by_their_names(app: CloudQ) -> None:
    conf: Any = app.conf
    with pytest.raises(AttributeError, match=r"'brokr': did you mean broker\?"):
        _ = conf.brokr
    with pytest.raises(AttributeError, match=r"'update': settings are changed by app.configure"):
        conf.update(broker="memory://")
    with pytest.raises(ValueError, match=r"'brokr': did you mean broker\?"):
        conf.brokr = "memory://"
    assert not hasattr(conf, "__deepcopy__")


def test_a_map_is_read_by_its_id_through_the_task_that_it_ran(app: CloudQ) -> None:
    @app.task
    def make(n: int) -> Point:
        return Point(n)

    @app.task
    def count(n: int) -> int:
        return n

    many, twice, one = make.map([1, 2]).delay(), make.starmap([(3,)]).delay(), count.delay(4)
    drain(app)
    assert make.AsyncResult(many.id).get(timeout=0) == [Point(1), Point(2)] == many.get(timeout=0)
    assert make.AsyncResult(twice.id).get(timeout=0) == [Point(3)]
    with pytest.raises(DecodeError, match=f"{one.id} is a call of .*count and not of .*make: read"):
        make.AsyncResult(one.id).get(timeout=0)


def test_a_message_that_cannot_be_read_is_logged_by_its_own_id(
    app: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    app.broker.driver.send("default", [Outgoing(id="stranger", body=b"{")])
    drain(app)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any(line.startswith("message stranger of default: ") for line in told), told
    assert not any("? ?" in line for line in told)


def test_a_graph_folds_members_that_are_alike(app: CloudQ) -> None:
    @app.task
    def part(n: int) -> int:
        return n

    @app.task
    def total(values: list[int]) -> int:
        return sum(values)

    result = chord([part.s(n) for n in range(300)], total.s()).delay()
    drain(app)
    graph = graph_of(result.id, app.backend)  # type: ignore[arg-type]
    assert graph is not None
    lines = list(as_text(graph))
    assert len(lines) < 6, lines
    assert any(f"300 x {part.name} SUCCESS: " in line for line in lines)
    assert lines[-1].endswith(f"{total.name} {result.id} SUCCESS")
    assert len(as_json(graph)["tasks"]) == 302  # type: ignore[arg-type]
