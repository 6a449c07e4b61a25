"""An exception comes back as it was raised, with its attributes and notes, as `pickle` has it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

import pytest

from cloudq import State, TaskFailure
from cloudq.results.record import Record, failure
from tests.support.bench import Bench


class Declined(Exception):
    """An error without anything of its own."""


def failing(app: Bench, error: BaseException) -> Any:
    """Return the result of a call that has raised this."""

    @app.task(name=f"fails-{len(app.tasks)}")
    def fail() -> None:
        raise error

    result = fail.delay()
    app.work()
    return result


class Refused(Exception):
    """It makes its text of what it is given, and keeps that as attributes."""

    def __init__(self, code: int, *, field: str) -> None:
        super().__init__(f"{field}: {code}")
        self.code, self.field = code, field


class Reduced(Exception):
    """It says itself how it is made again."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.secret = code, "not kept"
        self.reason = reason

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.reason), {"seen": [1, 2]}


class Stateful(Exception):
    def __getstate__(self) -> object:
        return {"kept": self.__dict__["kept"]}


class Told(Exception):
    """Its text needs what is set after it was made."""

    def __str__(self) -> str:
        return f"told {self.__dict__['what']}"


class Guarded(Exception):
    """Setting its attribute runs a method, which only the task may do."""

    set_by: ClassVar[list[int]] = []

    @property
    def watched(self) -> int:
        return 1

    @watched.setter
    def watched(self, value: int) -> None:
        self.set_by.append(value)


def came_back(app: Bench, error: Exception) -> Any:
    return failing(app, error).get(timeout=0, propagate=False)


def test_the_attributes_of_an_error_come_back(app: Bench) -> None:
    error = Declined("no")
    error.at = datetime(2026, 1, 2, tzinfo=UTC)  # type: ignore[attr-defined]
    error.limits = {"a": [Decimal("1.5"), None]}  # type: ignore[attr-defined]
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    found = came_back(app, error)
    assert (found.at, found.limits) == (error.at, error.limits)  # type: ignore[attr-defined]
    assert not hasattr(found, "lock")


class Placed(Exception):
    """Its text has a tuple that it keeps."""

    def __init__(self, *, place: tuple[int, int]) -> None:
        super().__init__(f"at {place}")
        self.place = place


def test_tuples_of_an_error_come_back_as_they_were(app: Bench) -> None:
    for error in (
        KeyError((1, "a")),
        ValueError(()),
        ValueError([1, (2, (3, [4, (5,)]))]),
        LookupError({"a": (1,), "b": [{(1, 2): (3,)}]}, (1,)),
        ExceptionGroup("two", [KeyError((1, 2)), ValueError([(1,)])]),
    ):
        found = came_back(app, error)
        assert (type(found), repr(found)) == (type(error), repr(error))
        if isinstance(error, KeyError):
            assert type(found.args[0]) is tuple
    found = came_back(app, Placed(place=(1, 2)))
    assert (type(found), str(found), found.place) == (Placed, "at (1, 2)", (1, 2))
    assert type(found.place) is tuple


def test_an_error_whose_constructor_takes_something_else_comes_back(app: Bench) -> None:
    found = came_back(app, Refused(3, field="age"))
    assert (type(found), str(found), found.code, found.field) == (Refused, "age: 3", 3, "age")


def test_an_error_says_itself_how_it_is_made_again(app: Bench) -> None:
    found = came_back(app, Reduced(3, "late"))
    assert (type(found), str(found), found.code, found.seen) == (Reduced, "3 late", 3, [1, 2])
    stateful = Stateful("x")
    stateful.kept, stateful.left_out = 1, 2  # type: ignore[attr-defined]
    assert vars(came_back(app, stateful)).keys() == {"kept", "__notes__"}
    unread = json.JSONDecodeError("not JSON", "[1, ", 4)
    assert (str(came_back(app, unread)), came_back(app, unread).pos) == (str(unread), 4)
    told = Told()
    told.what = "it"  # type: ignore[attr-defined]
    assert str(came_back(app, told)) == "told it"


def test_the_notes_of_an_error_come_back_before_its_traceback(app: Bench) -> None:
    error = ValueError("x")
    error.add_note("see the log")
    assert came_back(app, error).__notes__[0] == "see the log"
    assert "raised in the worker:" in came_back(app, error).__notes__[1]


def test_a_group_of_errors_comes_back_with_them(app: Bench) -> None:
    inner = ExceptionGroup("inner", [KeyError("k"), Refused(3, field="age")])
    result = failing(app, ExceptionGroup("some failed", [ValueError("v"), inner]))
    caught: list[Any] = []
    try:
        result.get(timeout=0)
    except* ValueError as group:
        caught += group.exceptions
    except* KeyError as group:
        caught.append(group)
    except* Refused as group:
        caught.append(group)
    assert str(caught[0]) == "v"
    assert len(caught) == 3
    found = came_back(app, ExceptionGroup("some", [ValueError("v"), inner]))
    assert found.exceptions[1].exceptions[1].code == 3


@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("many", [ValueError(n) for n in range(1000)]),
        ExceptionGroup("large", [ValueError("x" * 5000) for _ in range(9)]),
    ],
    ids=["many", "large"],
)
def test_a_group_that_is_too_large_is_a_task_failure(app: Bench, error: Exception) -> None:
    with pytest.raises(TaskFailure, match=str(len(error.exceptions))):  # type: ignore[attr-defined]
        failing(app, error).get(timeout=0)


def test_attributes_are_kept_within_a_bound(app: Bench) -> None:
    error = Declined("no")
    vars(error).update(large="x" * 50_000, small=1, deep=_nested(600), **{"é" * 7000: 2})
    vars(error).update({f"n{n}": n for n in range(10_000)})
    result = failing(app, error)
    found = result.get(timeout=0, propagate=False)
    assert (type(found), found.small, hasattr(found, "large")) == (Declined, 1, False)
    assert app.backend is not None
    record = app.backend.record(result.id)
    assert record is not None
    assert len((record.error_state or "").encode()) < 16_000


def test_stored_attributes_run_no_method(app: Bench) -> None:
    error = Guarded("x")
    vars(error)["watched"] = 7
    found = came_back(app, error)
    assert (type(found), found.watched, Guarded.set_by) == (Guarded, 1, [])


@pytest.mark.parametrize(
    "state", ["", "[]", "7", '"x"', '{"attributes": 3}', '{"attributes": {"__class__": 1}}', "{"]
)
def test_a_state_of_another_program_does_no_harm(state: str) -> None:
    record = Record(
        id="x",
        state=State.FAILURE,
        error_type="ValueError",
        error="e",
        error_args='["e"]',
        error_state=state,
    )
    assert (type(failure(record)), failure(record).args) == (ValueError, ("e",))
    group = replace(record, error_type="ExceptionGroup", error_args=None)
    assert type(failure(group)) is TaskFailure


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
