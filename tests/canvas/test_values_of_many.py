"""The values of maps and chunks come back as the task's own do, or the call fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel

from cloudq import AsyncResult, CloudQ, EncodeError, Task, chain, chord, group
from cloudq.errors import ConfigurationError, DecodeError, UnknownTask
from cloudq.testing import drain
from tests.support.bench import Bench


class Invoice(BaseModel):
    id: int


class Paid(Invoice):
    at: str = ""


@dataclass(frozen=True)
class Spot:
    x: int


class Pair(NamedTuple):
    x: int
    y: Decimal


class Kind(Enum):
    A = "a"
    PAIR = (1, "one")


VIENNA = ZoneInfo("Europe/Vienna")
NIGHT = datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1)
VALUES: list[tuple[Any, list[Any]]] = [
    (Invoice, [Invoice(id=1), Invoice(id=2), Invoice(id=3)]),
    (Spot, [Spot(1), Spot(2), Spot(3)]),
    (Pair, [Pair(1, Decimal("1.50")), Pair(2, Decimal(2))]),
    (Kind, [Kind.A, Kind.PAIR, Kind.A]),
    (set[Kind], [{Kind.A}, {Kind.A, Kind.PAIR}, set()]),
    (Invoice | None, [None, Invoice(id=1), None]),
    (dict[Kind, list[Spot]], [{Kind.PAIR: [Spot(1)]}, {}]),
    (datetime, [NIGHT, NIGHT.replace(fold=0)]),
    (Decimal, [Decimal("1.50"), Decimal(2)]),
    (Any, [{(1, 2)}, b"b", None]),
]


def gives(app: CloudQ, hint: Any, values: list[Any], **options: Any) -> Task[..., Any]:
    """Make a task that returns one of the values, by its number."""

    def give(n):  # type: ignore[no-untyped-def]
        return values[n]

    give.__annotations__ = {"n": int, "return": hint}
    return app.task(name="give", max_retries=0, **options)(give)


def flat(chunks: list[list[Any]]) -> list[Any]:
    return [value for chunk in chunks for value in chunk]


def takes(app: CloudQ) -> Task[..., Any]:
    def take(values: list[Any]) -> None: ...

    return app.task(name="take")(take)


def check(found: Any, values: list[Any]) -> None:
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
    times = [
        [(each.tzinfo, each.fold) for each in many if type(each) is datetime]
        for many in (found, values)
    ]
    assert times[0] == times[1]


@pytest.mark.parametrize(("hint", "values"), VALUES)
def test_each_value_comes_back_by_the_hint_of_its_task(
    plain: CloudQ, hint: Any, values: list[Any]
) -> None:
    give = gives(plain, hint, values)
    numbers, items = range(len(values)), [(n,) for n in range(len(values))]
    mapped, starred = give.map(numbers).delay(), give.starmap(items).delay()
    named = plain.send_task("cloudq.map", kwargs={"task": "give", "items": list(numbers)})
    linked = give.map(numbers).link(give.si(0)).delay()
    chunked = give.chunks(items, 2).delay()
    with plain.batch(bundle=10):
        bundled = give.chunks(items, 1).delay()
    streamed = group(give.map([n]) for n in numbers).delay()
    drain(plain)
    for result in (mapped, starred, named, linked):
        check(result.get(timeout=0), values)
        check(result.result, values)
    check(flat(chunked.get(timeout=0)), values)
    check([value for [value] in bundled.get(timeout=0)], values)
    check([value for [value] in streamed.get(timeout=0)], values)
    check(asyncio.run(awaited(mapped)), values)
    check(flat(asyncio.run(awaited(chunked))), values)


async def awaited(result: Any) -> Any:
    return await result


@pytest.mark.parametrize(("hint", "values"), VALUES)
def test_and_where_the_calls_run_at_once(hint: Any, values: list[Any]) -> None:
    with CloudQ("eager", broker="memory://eager", task_always_eager=True) as app:
        give = gives(app, hint, values)
        items = [(n,) for n in range(len(values))]
        check(give.map(range(len(values))).delay().get(), values)
        check(give.starmap(items).apply().get(), values)
        check(flat(give.chunks(items, 2).delay().get()), values)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
def test_and_with_each_serializer(serializer: str) -> None:
    with CloudQ(
        "written",
        broker=f"memory://written-{serializer}",
        accept_content=[serializer],
        task_serializer=serializer,
        signing_keys={"k1": "a" * 32},
    ) as app:

        @app.task(name="same")
        def same(invoice: Invoice) -> Invoice:
            return invoice

        mapped = same.map([Invoice(id=1)]).delay()
        chunked = same.chunks([(Invoice(id=1),), (Invoice(id=2),)], 1).delay()
        drain(app)
        assert mapped.get(timeout=0) == [Invoice(id=1)]
        assert chunked.get(timeout=0) == [[Invoice(id=1)], [Invoice(id=2)]]


def test_the_id_alone_gives_plain_values_as_of_every_task(plain: CloudQ) -> None:
    give = gives(plain, Invoice, [Invoice(id=1)])
    one, many = give.delay(0), give.map([0]).delay()
    drain(plain)
    assert plain.AsyncResult(one.id).get(timeout=0) == {"id": 1}
    assert plain.AsyncResult(many.id).get(timeout=0) == [{"id": 1}]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Invoice, Paid(id=1, at="noon")),
        (Invoice, None),
        (Kind, "none of them"),
        (Any, object()),
    ],
)
@pytest.mark.parametrize("is_eager", [False, True])
def test_a_value_that_would_not_come_back_fails_the_call(
    plain: CloudQ, hint: Any, value: Any, is_eager: bool
) -> None:
    give = gives(plain, hint, [next(values[0] for of, values in VALUES if of is hint), value])
    calls = [give.map([0, 1]), give.starmap([[0], [1]]), give.chunks([(0,), (1,)], 2)]
    results = [node.apply() if is_eager else node.delay() for node in calls]
    drain(plain)
    for result in results:
        with pytest.raises(EncodeError) as raised:
            result.get(timeout=0)
        assert result.failed()
        if hint is not Any:
            assert "the result of give for item 2 " in str(raised.value)


def test_a_value_that_nobody_reads_need_not_fit(plain: CloudQ) -> None:
    give = gives(plain, Invoice, [None])
    give.options(ignore_result=True).map([0]).delay()
    assert [str(each.state) for each in drain(plain)] == ["SUCCESS"]


def test_plain_data_is_a_value_of_its_hint(plain: CloudQ) -> None:
    give = gives(plain, Invoice, [{"id": 1}])
    result = give.map([0]).delay()
    drain(plain)
    assert result.get(timeout=0) == [Invoice(id=1)]


def test_values_of_coroutines_are_whole_and_checked(plain: CloudQ) -> None:
    @plain.task(name="give", max_retries=0)
    async def give(n: int) -> Invoice:
        return Invoice(id=n) if n else None  # type: ignore[return-value]

    good, bad = give.map([1, 2]).delay(), give.map([1, 0]).delay()
    drain(plain)
    assert good.get(timeout=0) == [Invoice(id=1), Invoice(id=2)]
    with pytest.raises(EncodeError, match="the result of give for item 2 does not fit"):
        bad.get(timeout=0)


def test_an_equal_call_gets_the_values_whole(plain: CloudQ) -> None:
    give = gives(plain, Invoice, [Invoice(id=1), None])

    def call(n: int, *, ignores: bool) -> AsyncResult[Any]:
        node = give.options(idempotency_key=f"k{n}", ignore_result=ignores).map([n])
        result = node.delay()
        drain(plain)
        return result

    for ignores in (True, False):
        good, bad = call(0, ignores=ignores), call(1, ignores=ignores)
    assert good.get(timeout=0) == [Invoice(id=1)]
    with pytest.raises(EncodeError, match="which was not kept"):
        bad.get(timeout=0)


def test_what_follows_gets_the_values_by_its_own_hints(plain: CloudQ) -> None:
    give = gives(plain, Invoice, [Invoice(id=1), Invoice(id=2)])
    seen: list[Any] = []

    @plain.task(name="take")
    def take(invoices: list[Invoice]) -> list[Invoice]:
        seen.append(invoices)
        return invoices[::-1]

    @plain.task(name="take_all")
    def take_all(chunks: list[list[Invoice]]) -> list[Invoice]:
        seen.append(chunks)
        return chunks[0]

    whole = [Invoice(id=1), Invoice(id=2)]
    steps = chain(give.map([0, 1]), take.s())
    header = chord([give.map([0, 1]), give.map([1])], take_all.s())
    chunks = give.chunks([[0], [1]], 2) | take_all.s()
    for node in (steps, header, chunks, give.map([0, 1]).link(take.s())):
        worked = node.delay()
        drain(plain)
        assert worked.get(timeout=0) == node.apply().get()
        assert all(type(each) is Invoice for each in worked.get())
    for taken in ([*whole], [whole, whole[1:]], [whole]):
        assert seen.count(taken) >= 2
    result = steps.delay()
    drain(plain)
    assert result.parent.get(timeout=0) == whole


def collects(give: Task[..., Any], take: Task[..., Any]) -> list[tuple[Any, list[Any]]]:
    one, two = Invoice(id=1), Invoice(id=2)
    inner = chain(give.si(0), group(give.si(1), give.map([0])))
    return [
        (chord([give.si(0), inner], take.s()), [one, [two, [one]]]),
        (chord([chain(give.si(0), give.chunks([[0], [1]], 1))], take.s()), [[[one], [two]]]),
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_the_one_value_of_a_group_is_restored_as_its_members_are(
    plain: CloudQ, number: int
) -> None:
    give = gives(plain, Invoice, [Invoice(id=1), Invoice(id=2)])
    take = takes(plain)
    node, expected = collects(give, take)[number]
    worked, at_once = node.delay(), node.apply()
    drain(plain)
    assert worked.parent.get(timeout=0) == at_once.parent.get() == expected


def test_a_member_that_was_added_gives_the_type_of_its_task(plain: CloudQ) -> None:
    give = gives(plain, Invoice, [Invoice(id=1)])
    added: list[Any] = []

    @plain.task(name="add", bind=True)
    def add(self) -> None:  # type: ignore[no-untyped-def]
        added.extend([self.add_to_chord(give.s(0)), self.add_to_chord(give.map([0]))])

    take = takes(plain)
    chord([add.s()], take.s()).delay()
    drain(plain)
    assert [result.get(timeout=0) for result in added] == [Invoice(id=1), [Invoice(id=1)]]


def test_a_task_that_is_not_here_gives_plain_values(plain: CloudQ) -> None:
    result = plain.send_task("cloudq.map", ["elsewhere", [1]])
    odd = plain.send_task("cloudq.map", [["give"], [1]])
    drain(plain)
    with pytest.raises(UnknownTask, match="elsewhere"):
        result.get(timeout=0)
    assert odd.failed()


def test_what_middleware_makes_of_the_values_is_checked_too() -> None:
    changes: list[Callable[[Any], Any]] = [lambda values: values[:1], lambda values: {"n": 1}]

    def change(call: Callable[[Any], object]) -> Callable[[Any], object]:
        return lambda context: changes.pop(0)(call(context))

    with CloudQ("changed", broker="memory://changed", middleware=[change]) as app:
        give = gives(app, Invoice, [Invoice(id=1)])
        first, second = give.map([0, 0]).delay(), give.map([0, 0]).delay()
        drain(app)
        assert first.get(timeout=0) == [Invoice(id=1)]
        with pytest.raises(EncodeError, match="the result of give for many items is no list"):
            second.get(timeout=0)


def test_a_stored_value_that_is_no_list_is_refused(app: Bench) -> None:
    give = gives(app, Invoice, [Invoice(id=1)])
    with pytest.raises(DecodeError, match="the result of give for many items is no list"):
        give.arguments.restore_each({"id": 1})
    with pytest.raises(DecodeError, match="the result of give for item 2 does not fit"):
        give.arguments.restore_each([{"id": 1}, {"id": "x"}])


def test_a_map_whose_end_is_not_recorded_is_not_waited_for() -> None:
    with CloudQ("ignoring", broker="memory://ignoring", task_ignore_result=True) as app:
        give = gives(app, Invoice, [Invoice(id=1)])
        for result in (
            give.map([0]).delay(),
            give.map([0]).link(give.si(0)).delay(),
            give.chunks([[0]], 1).delay(),
        ):
            with pytest.raises(ConfigurationError, match="would wait in vain"):
                result.get(timeout=0)
        kept = give.options(ignore_result=False).map([0]).delay()
        drain(app)
        assert kept.get(timeout=0) == [Invoice(id=1)]


def test_a_call_that_ran_at_once_and_keeps_nothing_gives_none() -> None:
    with CloudQ("kept", broker="memory://kept", task_always_eager=True) as app:
        give = gives(app, Invoice, [Invoice(id=1)], ignore_result=True)
        assert give.delay(0).get() is None
        assert give.apply([0], throw=True).get() is None
