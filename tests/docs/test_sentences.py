"""Sentences of the guide on values, equality, ids and waiting are true: each has its check."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr
from typing_extensions import TypedDict

from cloudq import CloudQ, State
from cloudq.errors import ConfigurationError, EncodeError, InvalidArguments
from cloudq.testing import drain

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "write-and-call-tasks.md"
SENTENCES = re.sub(r"\s+", " ", PAGE.read_text())


class Pair(NamedTuple):
    left: int
    right: int


@dataclass(frozen=True)
class Base:
    a: int


@dataclass(frozen=True)
class Wide(Base):
    b: int = 2


@dataclass(frozen=True)
class Same(Base): ...


class Row(TypedDict):
    a: int


class Secret(BaseModel):
    word: SecretStr


class Color(StrEnum):
    RED = "red"


def _echo(value: Any = None) -> Any:
    return value


def _takes_base(value: Base) -> None: ...


def _takes_rows(rows: list[Row]) -> None: ...


def _takes_color(value: str | Color) -> str:
    return type(value).__name__ + value


def _takes_pair(value: Pair) -> bool:
    return type(value) is Pair


def _stops() -> None:
    raise StopIteration


def _returns_text() -> Base:
    return "text"  # pyright: ignore[reportReturnType]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[CloudQ]:
    url = f"sqlite:///{tmp_path}/q.db"
    with CloudQ("sentences", broker=url, backend=url) as app:
        yield app


Check = Callable[[CloudQ], None]
CHECKS: dict[str, Check] = {}


def says(sentence: str) -> Callable[[Check], Check]:
    """Make a function the check of a sentence of the page."""

    def add(check: Check) -> Check:
        CHECKS[sentence] = check
        return check

    return add


def _sent(app: CloudQ, value: Any, function: Callable[..., Any] = _echo) -> Any:
    """Send a value through a task, and return what comes back."""
    result = app.task(name=function.__name__)(function).delay(value)
    drain(app)
    return result.get(timeout=0)


def _is_refused(app: CloudQ, value: Any, function: Callable[..., Any] = _echo) -> None:
    with pytest.raises(EncodeError):
        app.task(name=function.__name__)(function).delay(value)


@says("JSON values, and beyond them: `datetime`, `date`, `time`, `timedelta`, `Decimal`, `UUID`")
def _(app: CloudQ) -> None:
    values = [
        *(1, 2.5, True, None, "text", [1, [2]], {"k": {"k": 1}}),
        *(datetime(2030, 1, 2, 3, 4, 5, 6, UTC), date(2030, 1, 2), time(1, 2), timedelta(1, 2, 3)),
        *(Decimal("1.10"), UUID(int=7), b"\x00\xff", {1, "a"}, {(1, 2): 3, 4: 5, None: 6}),
    ]
    got = _sent(app, values)
    assert got == values
    assert [type(value) for value in got] == [type(value) for value in values]


@says("A tuple arrives as a list, but stays a tuple as a dict's key and in a set.")
def _(app: CloudQ) -> None:
    assert _sent(app, (1, (2,))) == [1, [2]]
    assert _sent(app, {(1, 2): {(3, 4)}}) == {(1, 2): {(3, 4)}}


@says("A time in a `ZoneInfo` keeps its zone by name, and its `fold`; a fixed offset stays one")
def _(app: CloudQ) -> None:
    late = datetime(2030, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    got = _sent(app, late)
    assert (got.tzinfo, got.fold) == (late.tzinfo, 1)
    fixed = datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2), "odd"))
    assert _sent(app, fixed).utcoffset() == timedelta(hours=2)


@says("Values nest 100 levels deep at most.")
def _(app: CloudQ) -> None:
    value: Any = 1
    for _ in range(90):
        value = [value]
    assert _sent(app, value) == value
    for _ in range(11):
        value = [value]
    _is_refused(app, value)


@says(
    "a `defaultdict` or a `Counter` as a dict, a `bytearray` as bytes, a named tuple without a hint"
)
def _(app: CloudQ) -> None:
    got = _sent(app, [defaultdict(int, a=1), Counter("aa"), bytearray(b"x"), Pair(1, 2)])
    assert got == [{"a": 1}, {"a": 2}, b"x", [1, 2]]
    assert [type(value) for value in got] == [dict, dict, bytes, list]
    assert _sent(app, Pair(1, 2), _takes_pair) is True


@says("and is refused alone; a `deque` or a `range` is refused.")
def _(app: CloudQ) -> None:
    for value in (Path("/x"), deque([1]), range(3)):
        _is_refused(app, value)


@says("a dataclass or a model as a key or in a set")
def _(app: CloudQ) -> None:
    _is_refused(app, {Base(1)})
    _is_refused(app, {Base(1): 2})


@says('keys that would arrive as one (`Color.RED` and `"red"`)')
def _(app: CloudQ) -> None:
    # A StrEnum is equal to its text, so Python itself has one key: an enum that is not has two.
    class Plain(StrEnum):
        RED = "red"
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    _is_refused(app, {Plain.RED: 1, "red": 2})


@says("a subclass where the hint names its base, with the same fields too")
def _(app: CloudQ) -> None:
    _is_refused(app, Wide(1), _takes_base)
    _is_refused(app, Same(1), _takes_base)


@says("A key that a typed dict does not have is refused, at any depth")
def _(app: CloudQ) -> None:
    with pytest.raises(InvalidArguments, match="Extra inputs"):
        app.task(name="rows")(_takes_rows).delay([{"a": 1}, {"a": 1, "x": 2}])


@says("(`str | Color`; a `StrEnum` arrives as the equal text)")
def _(app: CloudQ) -> None:
    assert _sent(app, Color.RED, _takes_color) == "strred"


@says("pydantic's `SecretStr`, `SecretBytes` and `Secret`")
def _(app: CloudQ) -> None:
    assert _sent(app, [SecretStr("x"), SecretBytes(b"x")]) == [SecretStr("x"), SecretBytes(b"x")]
    assert _sent(app, Secret(word=SecretStr("x"))) == {"word": SecretStr("x")}


@says("A result that its return hint would not read ends the task with that error as a FAILURE")
def _(app: CloudQ) -> None:
    result = app.task(name="text")(_returns_text).delay()
    drain(app)
    assert result.state is State.FAILURE
    assert isinstance(result.get(propagate=False), EncodeError)


@says("`apply_async` takes a list or a tuple, and a mapping by name; anything else, a text say, is")
def _(app: CloudQ) -> None:
    echo = app.task(name="echo")(_echo)
    for wrong in ("ann", {"a": 1}, {1}, 5):
        with pytest.raises(InvalidArguments):
            echo.apply_async(wrong)  # pyright: ignore[reportArgumentType]


@says("A second call with a `task_id` that was used is a call of its own: it runs")
def _(app: CloudQ) -> None:
    echo = app.task(name="echo")(_echo)
    values: list[Any] = []
    for value in (1, 2):
        result = echo.apply_async((value,), task_id="one")
        drain(app)
        values.append(result.get(timeout=0))
    assert values == [1, 2]


@says("To have equal calls run once, give an `idempotency_key`, or make the task `unique`.")
def _(app: CloudQ) -> None:
    runs: list[Any] = []
    note = app.task(name="note")(runs.append)
    for value in (1, 2):
        note.apply_async((value,), idempotency_key="same")
    alone = app.task(name="alone", unique=True)(runs.append)
    assert alone.delay(3).id == alone.delay(3).id
    drain(app)
    assert runs == [1, 3]


@says("The last four are final and never change.")
def _(app: CloudQ) -> None:
    result = app.task(name="echo")(_echo).delay(1)
    drain(app)
    result.revoke()
    assert (result.state, result.get(timeout=0)) == (State.SUCCESS, 1)


@says("A `StopIteration` of the task becomes a `RuntimeError` there, as in any coroutine.")
def _(app: CloudQ) -> None:
    result = app.task(name="stops")(_stops).delay()
    drain(app)

    async def wait() -> None:
        await result

    with pytest.raises(RuntimeError):
        asyncio.run(wait())


@says("`await result` holds no thread and ends when it is cancelled.")
def _(app: CloudQ) -> None:
    async def wait_for_many() -> None:
        waits = [asyncio.ensure_future(_of(app.AsyncResult(f"{n}"))) for n in range(50)]
        await asyncio.sleep(0.05)
        for wait in waits:
            wait.cancel()
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)

    asyncio.run(wait_for_many())


async def _of(result: Any) -> Any:
    return await result


@says("`get` on the result of such a call raises `ConfigurationError` at once")
def _(app: CloudQ) -> None:
    result = app.task(name="echo", ignore_result=True)(_echo).delay(1)
    with pytest.raises(ConfigurationError):
        result.get()


@says("`result.revoke()` keeps a task from starting")
def _(app: CloudQ) -> None:
    runs: list[Any] = []
    result = app.task(name="note")(runs.append).delay(1)
    result.revoke()
    drain(app)
    assert (result.state, runs) == (State.REVOKED, [])


@pytest.mark.parametrize("sentence", CHECKS)
def test_it_is_so(app: CloudQ, sentence: str) -> None:
    assert re.sub(r"\s+", " ", sentence) in SENTENCES, "the page does not say so any more"
    CHECKS[sentence](app)
