"""A value is of the class that its hint names again, or refused; what is not sent is made anew."""

from __future__ import annotations

import asyncio
import threading
import typing
from collections.abc import Awaitable, Collection, Coroutine, Iterable
from dataclasses import InitVar, dataclass
from enum import Enum, StrEnum
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, computed_field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from cloudq import CloudQ, EncodeError, InvalidArguments, chain
from cloudq.testing import drain

T = TypeVar("T")


class Color(Enum):
    RED = "red"
    NONE = None


class Status(StrEnum):
    OPEN = "open"


class Short(BaseModel):
    x: int


class Long(BaseModel):
    x: int
    y: int = 0


@dataclass
class Point:
    x: int


@dataclass
class Same(Point):
    """Has the fields of its base, and is not equal to it."""


class SameShort(Short): ...


class Box(BaseModel, Generic[T]):
    item: T


class SameBox(Box[int]): ...


@dataclass
class Spot:
    x: int
    y: int = 0


class Pair(NamedTuple):
    x: int
    y: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Twice(BaseModel):
    """Has properties that are kept with the fields once they were read."""

    x: int

    @computed_field
    @cached_property
    def double(self) -> int:
        return self.x * 2

    @cached_property
    def lock(self) -> threading.Lock:
        return threading.Lock()


class Closed(Twice):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Open(Twice):
    model_config = ConfigDict(extra="allow")


class Kept(BaseModel):
    x: int
    _count: int = 0
    _seen: list[int] = PrivateAttr(default_factory=list[int])
    _id: UUID = PrivateAttr(default_factory=uuid4)
    _double: int = PrivateAttr()
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def model_post_init(self, context: Any) -> None:
        self._double = self.x * 2


def read(model: Any) -> Any:
    """Read the cached properties of a model, so that it keeps them."""
    assert model.double == model.x * 2
    assert model.lock is model.lock
    return model


def changed(**private: Any) -> Kept:
    made = Kept(x=1)
    for name, value in private.items():
        setattr(made, name, value)
    return made


Placed = TypeVar("Placed", bound=Point)
Either = TypeVar("Either", Point, Pair)


@dataclass
class Scaled:
    """Keeps what it makes of a value that is no field."""

    x: int
    factor: InitVar[int] = 2

    def __post_init__(self, factor: int) -> None:
        self.scaled = self.x * factor

    @cached_property
    def double(self) -> int:
        return self.x * 2


@pydantic_dataclass(config=ConfigDict(extra="allow"))
class Loose:
    x: int


def with_more(value: Any, **more: Any) -> Any:
    """Set attributes that are no fields."""
    vars(value).update(more)
    return value


WHOLE: list[tuple[Any, Any]] = [
    (Placed, Point(1)),
    (list[Placed], [Point(1)]),  # type: ignore[valid-type]
    (Either, Pair(1, 2)),
    (Iterable[Point], [Point(1)]),
    (Collection[Point], [Point(1), Point(2)]),
    (Iterable[Point] | None, [Point(1)]),
    (typing.Iterable[Color], {Color.RED}),
    (Collection[Color] | None, frozenset({Color.RED})),
    (Scaled, Scaled(2)),
    (Scaled, with_more(Scaled(2), lock=threading.Lock(), double=4)),
    (Long | Short, Long(x=1, y=2)),
    (Short | Long, Long(x=1)),
    (list[Point | Spot], [Point(1), Spot(1)]),
    (list[Annotated[Cat | Dog, Field(discriminator="kind")]], [Dog(), Cat()]),
    (Color | None, Color.RED),
    (Literal[Status.OPEN, "shut"], Status.OPEN),
    (dict[Color, Pair], {Color.RED: Pair(1, 2)}),
    (Twice, read(Twice(x=1))),
    (Closed, read(Closed(x=1))),
    (Open, read(Open(x=1, other="a"))),  # type: ignore[call-arg]
    (Kept, Kept(x=1)),
    (Same, Same(1)),
    (Same | Point, Same(1)),
    (Box[int], Box[int](item=1)),
    (Box, Box(item=1)),
]


@pytest.mark.parametrize(("hint", "value"), WHOLE)
def test_a_value_is_of_its_class_again(plain: CloudQ, hint: Any, value: Any) -> None:
    seen: list[Any] = []

    def take(value):  # type: ignore[no-untyped-def]
        seen.append(value)
        return value

    take.__annotations__ = dict.fromkeys(("value", "return"), hint)
    result = plain.task(name="take")(take).delay(value)
    drain(plain)
    for arrived in (*seen, result.get(timeout=0)):
        assert type(arrived) is type(value)
        if isinstance(value, list):
            assert list(map(type, arrived)) == list(map(type, value))
        if isinstance(value, Kept):
            assert (arrived.x, arrived._double) == (1, 2)
        else:
            assert arrived == value


def test_a_cached_property_is_no_field_where_no_hint_is(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(value):  # type: ignore[no-untyped-def]
        return value

    result = take.delay(read(Closed(x=1)))
    drain(plain)
    assert result.get(timeout=0) == {"x": 1}


OTHERS: list[tuple[Any, Any]] = [
    (Point, Same(1)),
    (Short, SameShort(x=1)),
    (Box[int], SameBox(item=1)),
    (dict[str, list[Point]], {"a": [Point(1), Same(2)]}),
    (Box[Point], Box[Point](item=Same(1))),
    (Scaled, Scaled(2, 5)),
    (Scaled, with_more(Scaled(2), note="later")),
    (list[Scaled], [Scaled(2), Scaled(2, 5)]),
    (Loose, Loose(x=1, more=2)),  # type: ignore[call-arg]
    (Long | Short, Short(x=1)),
    (list[Spot | Point], [Spot(1), Point(1)]),
    (dict[str, Any] | Short, Short(x=1)),
    (list[int] | Pair, Pair(1, 2)),
    (str | Color, Color.RED),
    (Color | None, Color.NONE),
    (dict[str | Color, int], {Color.RED: 1}),
    (Kept, changed(_count=5)),
    (Kept, changed(_seen=[1])),
    (Kept, changed(_double=7)),
]


@pytest.mark.parametrize(("hint", "value"), OTHERS)
def test_what_would_be_of_another_class_or_less_is_refused(
    plain: CloudQ, hint: Any, value: Any
) -> None:
    def take(value):  # type: ignore[no-untyped-def]
        return None

    def give():  # type: ignore[no-untyped-def]
        return value

    take.__annotations__ = {"value": hint}
    give.__annotations__ = {"return": hint}
    with pytest.raises(EncodeError, match="would"):
        plain.task(name="take")(take).delay(value)
    result = plain.task(name="give", max_retries=0)(give).delay()
    assert len(drain(plain)) == 1
    with pytest.raises(EncodeError, match="would"):
        result.get(timeout=0)


def test_a_subclass_in_a_chain_is_refused(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(value: Point) -> None: ...

    with pytest.raises(EncodeError, match="step 2: take: value is a Same"):
        chain(take.s(Point(1)), take.si(Same(1))).delay()
    assert drain(plain) == []


def test_an_enum_that_equals_its_value_may_arrive_as_it(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(value: str | Status) -> str | Status:
        return value

    result = take.delay(Status.OPEN)
    drain(plain)
    assert result.get(timeout=0) == Status.OPEN


@pytest.mark.parametrize(
    "hint", [Awaitable[Point], Coroutine[Any, Any, Point], asyncio.Future[Point], Point, None]
)
def test_the_hint_of_what_is_awaited_is_that_of_its_value(plain: CloudQ, hint: Any) -> None:
    async def made() -> Point:
        return Point(1)

    def give():  # type: ignore[no-untyped-def]
        return made()

    if hint is not None:
        give.__annotations__ = {"return": hint}
    result = plain.task(name="give", max_retries=0)(give).delay()
    drain(plain)
    assert result.get(timeout=0) == (Point(1) if hint is not None else {"x": 1})


@pytest.mark.parametrize("hint", [Iterable, Iterable[int], Collection[int], typing.Collection])
def test_any_iterable_of_plain_values_may_be_checked(plain: CloudQ, hint: Any) -> None:
    def take(items):  # type: ignore[no-untyped-def]
        return items

    take.__annotations__ = {"items": hint}
    task = plain.task(name="take", pydantic=True)(take)
    sent = [task.delay(items) for items in ([1, 2], (1, 2), {1, 2}, (n for n in [1, 2]))]
    drain(plain)
    assert [each.get(timeout=0) for each in sent] == [[1, 2], [1, 2], {1, 2}, [1, 2]]
    for wrong in (5, "12", b"12"):
        with pytest.raises(InvalidArguments, match="take: items"):
            task.delay(wrong)
