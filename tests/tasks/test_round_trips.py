"""Arguments and results come back as they were by the hints of the task, or are refused."""

from __future__ import annotations

import logging
from collections import namedtuple
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum, auto
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    RootModel,
    SecretBytes,
    SecretStr,
    StrictInt,
    field_serializer,
)

from cloudq import CloudQ, EncodeError, InvalidArguments, chain, group
from cloudq.testing import drain
from tests.support.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel as Unknown


class Kind(Enum):
    A = "a"
    PAIR = (1, "one")


class Size(IntEnum):
    BIG = 3


class Letter(str, Enum):  # noqa: UP042
    A = "a"


class Sign(str, Enum):  # noqa: UP042
    A = "a"


class Right(Flag):
    READ = auto()
    WRITE = auto()


class Point(NamedTuple):
    x: int
    kind: Kind = Kind.A


Bare = namedtuple("Bare", "x y")


class Order(BaseModel):
    id: int


class Choice(BaseModel):
    id: int = Field(validation_alias=AliasChoices("orderId", "oid"))
    first: str = Field("", validation_alias=AliasPath("names", 0))
    last: str = Field("", validation_alias=AliasPath("names", 1))
    city: str = Field("", validation_alias=AliasChoices(AliasPath("address", "city"), "town"))


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    kind: Kind
    pair: tuple[int, int]
    tags: frozenset[str] = frozenset()
    at: datetime | None = None
    inside: Strict | None = None


class Encoded(BaseModel):
    data: Base64Bytes
    more: list[Base64Bytes] = []
    numbers: Json[list[int]] = Field("[1]", validate_default=True)


class Link(BaseModel):
    url: HttpUrl
    hosts: dict[str, IPv4Address] = {}


class Cells(BaseModel):
    table: dict[tuple[int, int], str]
    by_kind: dict[Kind, set[Point]]


class Numbers(RootModel[list[int]]):
    pass


@dataclass(frozen=True)
class Spot:
    x: int
    kinds: frozenset[Kind] = frozenset()


class Secret(BaseModel):
    key: SecretStr


class Card(SecretStr): ...


class Token(SecretBytes): ...


class WithCard(BaseModel):
    card: Card
    key: SecretStr


VIENNA = ZoneInfo("Europe/Vienna")
OrderId = NewType("OrderId", Order)

WHOLE: list[tuple[Any, Any]] = [
    (Kind, Kind.A),
    (Kind, Kind.PAIR),
    (Size, Size.BIG),
    (Right, Right.READ | Right.WRITE),
    (Point, Point(1, Kind.PAIR)),
    (Bare, Bare(1, "b")),
    (list[Point], [Point(1), Point(2)]),
    (Choice, Choice(orderId=1)),
    (Choice, Choice(oid=2, names=["a", "b"], address={"city": "c"})),
    (Strict, Strict(kind=Kind.A, pair=(1, 2))),
    (
        Strict,
        Strict(
            kind=Kind.PAIR,
            pair=(1, 2),
            tags=frozenset({"t"}),
            at=datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1),
            inside=Strict(kind=Kind.A, pair=(3, 4)),
        ),
    ),
    (list[Strict] | None, [Strict(kind=Kind.A, pair=(1, 2))]),
    (Encoded, Encoded(data=b"aGVsbG8=", more=[b"YWJjZA=="], numbers="[1, 2]")),
    (Link, Link(url="http://x.example/", hosts={"a": "10.0.0.1"})),
    (Cells, Cells(table={(1, 2): "a"}, by_kind={Kind.PAIR: {Point(1, Kind.PAIR)}})),
    (dict[Kind, Order], {Kind.A: Order(id=1)}),
    (set[Kind], {Kind.A, Kind.PAIR}),
    (Numbers, Numbers([1, 2])),
    (Spot, Spot(1, frozenset({Kind.A, Kind.PAIR}))),
    (OrderId, Order(id=1)),
    (Annotated[int, Field(gt=0)], 5),
    (StrictInt, 5),
    (Any, {(1, (2, frozenset({3}))): {(4, 5)}}),
    (Any, datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1)),
    (Any, time(12, tzinfo=VIENNA)),
    (SecretStr, SecretStr("s")),
    (SecretStr | None, SecretStr("s")),
    (SecretBytes, SecretBytes(b"\xff")),
    (Card, Card("4111")),
    (Card | None, Card("4111")),
    (Token, Token(b"\xff")),
    (dict[str, list[Card]], {"a": [Card("4111"), Card("")]}),
    (WithCard, WithCard(card=Card("4111"), key=SecretStr("k"))),
    (pydantic.Secret[date], pydantic.Secret[date](date(2030, 1, 2))),
    (list[SecretStr], [SecretStr("a"), SecretStr("")]),
    (Secret, Secret(key=SecretStr("k"))),
    (dict[str, Secret], {"a": Secret(key=SecretStr("k"))}),
    (Any, {"a": [SecretStr("s"), SecretBytes(b"b")]}),
    (Any, {SecretStr("a"): {SecretStr("s")}}),
]


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
@pytest.mark.parametrize("hint", [SecretStr, Any])
def test_a_secret_comes_back_by_each_serializer(hint: Any, serializer: str) -> None:
    keys = {"signing_keys": {"k": "s" * 32}}
    app = CloudQ("demo", broker="memory://", accept_content=["json", serializer], **keys)
    seen: list[Any] = []

    def take(value):  # type: ignore[no-untyped-def]
        seen.append(value)

    take.__annotations__ = {"value": hint}
    app.task(name="take", serializer=serializer)(take).delay(SecretStr("four words"))
    drain(app)
    assert seen == [SecretStr("four words")]


def test_a_text_for_a_secret_arrives_as_one(plain: CloudQ) -> None:
    seen: list[Any] = []

    @plain.task(name="take")
    def take(value: SecretStr) -> None:
        seen.append(value)

    take.delay("four words")  # type: ignore[arg-type]
    drain(plain)
    assert seen == [SecretStr("four words")]


@pytest.mark.parametrize(("hint", "value"), WHOLE)
def test_a_value_comes_back_by_its_hint(plain: CloudQ, hint: Any, value: Any) -> None:
    seen: list[Any] = []

    def take(value, *rest, **named):  # type: ignore[no-untyped-def]
        seen.extend([value, *rest, *named.values()])
        return value

    take.__annotations__ = dict.fromkeys(("value", "rest", "named", "return"), hint)
    task = plain.task(name="take")(take)
    direct = task.delay(value, value, other=value)
    steps = chain(task.si(value), task.s(value)).delay()
    drain(plain)
    for arrived in seen:
        assert arrived == value
        assert type(arrived) is type(value)
    assert len(seen) == 6
    assert direct.get(timeout=0) == steps.get(timeout=0) == value
    assert task.apply([value]).get() == value


class Dog(Order):
    name: str


class Doubled(BaseModel):
    text: Annotated[str, AfterValidator(lambda text: text * 2)]


@dataclass
class Made:
    x: int
    y: InitVar[int]
    z: int = field(init=False, default=0)

    def __post_init__(self, y: int) -> None:
        self.z = self.x + y


LESS: list[tuple[Any, Any]] = [
    (Order, Dog(id=1, name="rex")),
    (list[Order], [Dog(id=1, name="rex")]),
    (Doubled, Doubled(text="a")),
    (Made, Made(1, 2)),
    (Annotated[int, AfterValidator(lambda number: number + 1)], 1),
    (Order, Order.model_construct(id="none")),
    (Literal["a", Kind.A], Kind.A),
    (Letter | Sign, Sign.A),
    (Any, "\ud800"),
    (Any, {"\ud800": [1]}),
    (Any, {Spot(1)}),
    (Any, {Spot(1): 1}),
    (Any, {Kind.A: 1, "a": 2}),
    (Any, {Kind.A, "a"}),
    (Any, {"deep": [{(1, Spot(1))}]}),
]


@pytest.mark.parametrize(("hint", "value"), LESS)
def test_what_would_not_come_back_is_refused_at_the_call(
    plain: CloudQ, hint: Any, value: Any
) -> None:
    def take(value):  # type: ignore[no-untyped-def]
        return None

    take.__annotations__ = {"value": hint}
    task = plain.task(name="take")(take)
    for call in (
        lambda: task.delay(value),
        lambda: task.apply([value]),
        lambda: chain(task.si(value), task.si(value)).delay(),
        lambda: group([task.s(value)]).delay(),
        lambda: task.delay_on_commit(value),
    ):
        with pytest.raises(EncodeError):
            call()
    assert drain(plain) == []


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Order, Dog(id=1, name="rex")),
        (Order, None),
        (list[Order], [{"id": "none"}]),
        (Doubled, Doubled(text="a")),
        (Any, {Spot(1)}),
        (Any, object()),
    ],
)
def test_a_result_that_would_not_come_back_is_a_failure(
    plain: CloudQ, hint: Any, value: Any
) -> None:
    def give():  # type: ignore[no-untyped-def]
        return value

    give.__annotations__ = {"return": hint}
    result = plain.task(name="give", max_retries=0)(give).delay()
    drain(plain)
    with pytest.raises(EncodeError):
        result.get(timeout=0)
    assert result.state == "FAILURE"


def test_plain_data_is_a_result_of_its_hint(plain: CloudQ) -> None:
    @plain.task
    def give() -> list[Order]:
        return [{"id": 1}]  # type: ignore[list-item]

    result = give.delay()
    drain(plain)
    assert result.get(timeout=0) == [Order(id=1)]


def test_a_result_that_nobody_reads_need_not_fit(plain: CloudQ) -> None:
    @plain.task(ignore_result=True, bind=True)
    def give(self) -> Order:  # type: ignore[no-untyped-def]
        seen.append(self.request.id)
        return None  # type: ignore[return-value]

    seen: list[str] = []
    result = give.delay()
    assert len(drain(plain)) == 1
    assert seen == [result.id]


def test_a_result_that_nobody_reads_may_be_of_any_class(plain: CloudQ) -> None:
    seen: list[int] = []

    @plain.task(ignore_result=True, idempotent=True)
    def pay(order: int) -> object:
        seen.append(order)
        return object()

    for _ in range(2):
        pay.delay(7)
        assert [str(each.state) for each in drain(plain)] == ["SUCCESS"]
    assert seen == [7]


def test_a_number_that_cannot_be_compared_comes_back(plain: CloudQ) -> None:
    @plain.task
    def give(value: Annotated[Decimal, Field(allow_inf_nan=True)]) -> list[Any]:
        return [type(value).__name__, str(value), value]

    result = give.delay(Decimal("-sNaN12"))
    drain(plain)
    assert list(map(str, result.get(timeout=0))) == ["Decimal", "-sNaN12", "-sNaN12"]


# ---- hints


def test_only_a_hint_that_cannot_be_resolved_is_lost_and_told(
    plain: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    @plain.task(name="confirm", pydantic=True)
    def confirm(order: Order, amount: int, tags: Sequence[str] = (), *more: Unknown) -> Unknown:
        return [type(order).__name__, amount, tags, more]  # type: ignore[return-value]

    with caplog.at_level(logging.WARNING, "cloudq.app"):
        with pytest.raises(InvalidArguments, match="amount"):
            confirm.delay(Order(id=1), "no number")  # type: ignore[arg-type]
        result = confirm.delay(Order(id=1), "5", ["a"], {"any": 1})  # type: ignore[arg-type]
        drain(plain)
    assert result.get(timeout=0) == ["Order", 5, ["a"], [{"any": 1}]]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    for name, text in zip(("'tags'", "'more'", "result"), told, strict=True):
        assert "task confirm: the hint of its" in text
        assert name in text
        assert "is not defined" in text


def test_hints_of_stars_are_whole_and_checked(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(first: int, *orders: Order, key: Kind = Kind.A, **named: Order) -> list[Any]:
        return [type(each).__name__ for each in (*orders, key, *named.values())]

    @plain.task(name="total", pydantic=True)
    def total(*amounts: int, **named: int) -> list[Any]:
        return [*amounts, named]

    result = take.delay(1, Order(id=1), Order(id=2), key=Kind.PAIR, last=Order(id=3))
    sums = total.delay("1", 2, a="3")  # type: ignore[arg-type]
    drain(plain)
    assert result.get(timeout=0) == ["Order", "Order", "Kind", "Order"]
    assert sums.get(timeout=0) == [1, 2, {"a": 3}]
    with pytest.raises(InvalidArguments, match=r"take: orders\.1\.id: "):
        take.delay(1, Order(id=1), {"id": "x"})  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=r"take: last\.id: "):
        take.delay(1, last={"id": "x"})  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=r"total: amounts\.0: "):
        total.delay("x")  # type: ignore[arg-type]


def test_a_later_step_of_a_chain_is_checked_at_the_call(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(value: Any, order: Order) -> None: ...

    with pytest.raises(InvalidArguments, match=r"step 2: take: order\.id: "):
        chain(take.si(1, Order(id=1)), take.s({"id": "x"})).delay()
    assert drain(plain) == []


def test_items_of_a_map_are_whole(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(order: Order, kind: Kind = Kind.A) -> list[str]:
        return [type(order).__name__, kind.name]

    mapped = take.map([Order(id=1)]).delay()
    starred = take.starmap([(Order(id=1), Kind.PAIR)]).delay()
    drain(plain)
    assert mapped.get(timeout=0) == [["Order", "A"]]
    assert starred.get(timeout=0) == [["Order", "PAIR"]]


def test_a_strict_type_takes_only_what_it_would_write(plain: CloudQ) -> None:
    @plain.task(name="take", max_retries=0)
    def take(number: StrictInt) -> int:
        return number

    sent = plain.send_task("take", [5])
    drain(plain)
    assert sent.get(timeout=0) == 5
    with pytest.raises(InvalidArguments):
        take.arguments.read(["5"], {})


def test_progress_keeps_keys_members_and_zones(plain: CloudQ) -> None:
    at = datetime(2026, 3, 28, 12, tzinfo=VIENNA)
    meta = {(1, 2): {(3, 4)}, "at": at}
    found: list[Any] = []

    @plain.task(name="take", bind=True)
    def take(self) -> None:  # type: ignore[no-untyped-def]
        self.update_state(state="PROGRESS", meta=meta)
        found.append(plain.AsyncResult(self.request.id).info)
        with pytest.raises(EncodeError):
            self.update_state(state="PROGRESS", meta={Spot(1)})

    take.delay()
    drain(plain)
    assert found == [meta]
    assert str(found[0]["at"] + timedelta(days=1)) == "2026-03-29 12:00:00+02:00"


# ---- the shape of a call


@pytest.mark.parametrize("given", ["ann", {"b"}, {"to": 1}, 5, iter("ab"), b"ab"])
def test_arguments_are_a_list_or_tuple(plain: CloudQ, given: Any) -> None:
    @plain.task(name="mail", bind=True, max_retries=1)
    def mail(self, *to: Any) -> None:  # type: ignore[no-untyped-def]
        if to:
            self.retry(args=given)

    for call in (
        lambda: mail.apply_async(given),
        lambda: mail.apply(given),
        lambda: mail.apply_async_on_commit(given),
        lambda: mail.signature(given),
        lambda: mail.s().apply_async(given),
        lambda: mail.s().clone(given),
        lambda: group([mail.s()]).apply_async(given),
        lambda: mail.starmap([given]),
        lambda: plain.send_task("mail", given),
        lambda: plain.send_task("elsewhere", given),
    ):
        with pytest.raises(InvalidArguments, match="must be a list or tuple"):
            call()
    assert drain(plain) == []
    failed = mail.delay(1)
    drain(plain)
    with pytest.raises(InvalidArguments, match="must be a list or tuple"):
        failed.get(timeout=0)


@pytest.mark.parametrize("given", ["ann", ["a"], {1: 2}, 5])
def test_keyword_arguments_are_a_mapping_by_name(plain: CloudQ, given: Any) -> None:
    @plain.task(name="mail")
    def mail(**to: Any) -> None: ...

    for call in (
        lambda: mail.apply_async([], given),
        lambda: mail.apply([], given),
        lambda: mail.signature([], given),
        lambda: mail.s().apply_async([], given),
        lambda: plain.send_task("elsewhere", [], given),
    ):
        with pytest.raises(InvalidArguments, match="keyword arguments"):
            call()
    assert drain(plain) == []


def test_none_stands_for_no_arguments(plain: CloudQ) -> None:
    @plain.task(name="mail")
    def mail() -> int:
        return 1

    result = mail.apply_async(None, None)  # type: ignore[arg-type]
    drain(plain)
    assert result.get(timeout=0) == 1


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_chunks_of_nothing_are_refused(plain: CloudQ, size: Any) -> None:
    @plain.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(
        InvalidArguments, match=r"the size of chunks is .*: it must be a whole number from 1 "
    ):
        add.chunks([(1, 2)], size)


def test_a_calls_soft_limit_is_below_its_hard_one(plain: CloudQ) -> None:
    @plain.task(name="slow", time_limit=10, soft_time_limit=5)
    def slow() -> None: ...

    for options in (
        {"time_limit": 1, "soft_time_limit": 5},
        {"time_limit": 5, "soft_time_limit": 5},
        {"time_limit": 4},
        {"soft_time_limit": 20},
    ):
        with pytest.raises(InvalidArguments, match="must be below time_limit"):
            slow.apply_async(**options)  # type: ignore[arg-type]
        with pytest.raises(InvalidArguments, match="must be below time_limit"):
            chain(slow.si(), slow.si()).set(**options).delay()  # type: ignore[arg-type]
    slow.apply_async(time_limit=30, soft_time_limit=20)
    assert len(drain(plain)) == 1


class Places(BaseModel):
    number: int = 1
    places: list[Path | bytes] = []


class Anything(BaseModel):
    inside: dict[str, Any] | Path = {}


class Raising(BaseModel):
    place: Path = Path("a")

    @field_serializer("place")
    def write(self, place: Path) -> str:
        raise RuntimeError("no such place")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Places(places=[Path("a"), b"\xff"]), "Places.places: UnicodeDecodeError"),
        (Anything(inside={"a": object()}), "Anything.inside: PydanticSerializationError"),
        (Raising(), "Raising.place: PydanticSerializationError: .*no such place"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_field_that_pydantic_cannot_write_is_named(
    app: Bench, value: BaseModel, field: str
) -> None:
    def given(value: Any) -> None: ...
    def returned() -> Any:
        return value

    given.__annotations__["value"] = returned.__annotations__["return"] = type(value)
    with pytest.raises(EncodeError, match=f"cannot be sent, for pydantic cannot write {field}"):
        app.task(name="given")(given).delay(value)
    result = app.task(name="returned")(returned).delay()
    app.work()
    with pytest.raises(EncodeError, match=field):
        result.get(timeout=0)
