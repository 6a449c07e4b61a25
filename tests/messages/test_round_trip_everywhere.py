"""Values of generated types through every serializer, and through brokers and stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    create_model,
)

from cloudq import CloudQ, chain, group
from cloudq.messages.body import arguments
from cloudq.messages.codec import Codec
from cloudq.messages.message import TaskMessage
from cloudq.messages.serializers import PICKLE, SERIALIZERS, pickled
from cloudq.messages.signing import Keyring
from cloudq.messages.values import dump_value, load_value, to_wire
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.came_back import came_back
from cloudq.tasks.hints import carries_model
from cloudq.testing import drain


class Kind(Enum):
    TEXT = "text"
    NUMBER = 7
    PAIR = (1, "one")


@dataclass(frozen=True, slots=True)
class Typed:
    """A hint, the values that fit it, and whether they can be keys and members."""

    hint: Any
    values: st.SearchStrategy[Any]
    hashable: bool = True


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["$uuid", "$", "\ufffe", "\x00", "2030-01-01", "yes", "1e5", "~", "\x85\u2028"]
)
zones = (
    st.none()
    | st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("UTC")])
    | st.sampled_from(["Europe/Vienna", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo)
)
folds = st.sampled_from([0, 1])
datetimes = st.builds(
    lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds
)
LEAVES = [
    Typed(int, st.integers(-(2**70), 2**70)),
    Typed(bool, st.booleans()),
    Typed(float, st.floats(allow_nan=False)),
    Typed(str, text),
    Typed(bytes, st.binary(max_size=6)),
    Typed(Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    Typed(UUID, st.uuids()),
    Typed(datetime, datetimes),
    Typed(date, st.dates()),
    Typed(time, datetimes.map(datetime.timetz)),
    Typed(timedelta, st.timedeltas()),
    Typed(Kind, st.sampled_from(Kind)),
]


def wider(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Types that are made of others."""
    keys = inner.filter(lambda typed: typed.hashable)
    return (
        inner.map(lambda t: Typed(list[t.hint], st.lists(t.values, max_size=3), hashable=False))
        | inner.map(lambda t: Typed(t.hint | None, st.none() | t.values, t.hashable))
        | st.tuples(inner, inner).map(pair)
        | keys.map(lambda t: Typed(frozenset[t.hint], st.frozensets(t.values, max_size=3)))
        | keys.map(lambda t: Typed(set[t.hint], st.sets(t.values, max_size=3), hashable=False))
        | st.tuples(keys, inner).map(table)
        | st.tuples(inner, inner, st.booleans()).map(model)
        | st.tuples(inner, inner).map(data)
        | st.tuples(inner, inner).map(named_tuple)
    )


def pair(given_: tuple[Typed, Typed]) -> Typed:
    one, two = given_
    hint = tuple[one.hint, two.hint]  # type: ignore[name-defined]
    return Typed(hint, st.tuples(one.values, two.values), one.hashable and two.hashable)


def table(given_: tuple[Typed, Typed]) -> Typed:
    key, item = given_
    made = st.dictionaries(key.values, item.values, max_size=3)
    return Typed(dict[key.hint, item.hint], made, hashable=False)  # type: ignore[name-defined]


def model(given_: tuple[Typed, Typed, bool]) -> Typed:
    one, two, strict = given_
    made: Any = create_model(
        "Made",
        __config__=ConfigDict(strict=strict),
        one=(one.hint, Field(validation_alias=AliasChoices("first", "other"))),
        two=(two.hint, Field(validation_alias=AliasPath("deep", "list", 1))),
        data=(Base64Bytes, b"aGVsbG8="),
        url=(HttpUrl | None, None),
    )
    values = st.builds(
        lambda one, two, url: made(
            first=one, deep={"list": [None, two]}, url=HttpUrl("http://x.example/") if url else None
        ),
        one.values,
        two.values,
        st.booleans(),
    )
    return Typed(made, values, hashable=False)


def data(given_: tuple[Typed, Typed]) -> Typed:
    one, two = given_
    made = make_dataclass("Data", [("one", one.hint), ("two", two.hint)])
    return Typed(made, st.builds(made, one.values, two.values), hashable=False)


def named_tuple(given_: tuple[Typed, Typed]) -> Typed:
    one, two = given_
    made: Any = NamedTuple("Named", [("one", one.hint), ("two", two.hint)])
    values = st.builds(made, one.values, two.values)
    return Typed(made, values, one.hashable and two.hashable)


types = st.recursive(st.sampled_from(LEAVES), wider, max_leaves=4)


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types all the way down, and in the same zones."""
    if type(left) is not type(right):
        return False
    if isinstance(left, BaseModel):
        return same(dict(left), dict(right))
    if is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(
            same(value, right[key]) for key, value in left.items()
        )
    if isinstance(left, datetime | time):
        return (left, left.fold, left.tzinfo) == (right, right.fold, right.tzinfo)
    return left == right


CODEC = Codec(
    accept=frozenset(SERIALIZERS),
    keyring=Keyring(keys={"k": b"x" * 32}, signs="k"),
    apps=frozenset({"cloudq"}),
)


def function_of(hint: Any) -> Any:
    def take(value, *rest, **named):  # type: ignore[no-untyped-def]
        return value

    take.__annotations__ = dict.fromkeys(("value", "rest", "named", "return"), hint)
    return take


@pytest.mark.slow
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", [None, "zlib"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_serializer_brings_values_back(
    serializer: str, compression: str | None, data: st.DataObject
) -> None:
    typed = data.draw(types)
    value = data.draw(typed.values)
    checks = Arguments("take", function_of(typed.hint), bound=False, everything=True)
    write = pickled if serializer == PICKLE and not _is_local(value) else to_wire
    args, kwargs = checks.sendable([value, value], {"named": value})
    message = TaskMessage(
        id="a",
        task="take",
        queue="q",
        args=[write(arg) for arg in args],
        kwargs={name: write(arg) for name, arg in kwargs.items()},
        serializer=None if serializer == "json" else serializer,
        compression=compression,
    )
    read = CODEC.decode(CODEC.encode(message), queue="q", limit=1 << 20)
    args, kwargs = checks.read(*arguments(read))
    assert same([*args, kwargs], [value, value, {"named": value}])
    result = checks.restore(load_value(checks.written_result(value)))
    assert same(result, value) if carries_model(typed.hint) else came_back(value, result)
    # Nothing is lost when what was read is written again, as a workflow does.
    plain = load_value(dump_value(value))
    assert same(load_value(dump_value(plain)), plain)


def _is_local(value: Any) -> bool:
    """Say if the value has a generated class in it, which pickle could not find."""
    return any(name in repr(value) for name in ("Made(", "Data(", "Named(", "Made", "url="))


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudQ]:
    url = "memory://round" if request.param == "memory" else f"sqlite:///{tmp_path}/q.db"
    made = CloudQ("round", broker=url, backend=url)
    yield made
    made.close()


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_brokers_and_stores_bring_values_back(app: CloudQ, data: st.DataObject) -> None:
    typed = data.draw(types)
    value = data.draw(typed.values)
    seen: list[Any] = []

    def take(self, value, *rest, **named):  # type: ignore[no-untyped-def]
        seen.extend([value, *rest, *named.values()])
        self.update_state(state="PROGRESS", meta={"at": [value]})
        assert app.AsyncResult(self.request.id).info == load_value(dump_value({"at": [value]}))
        return value

    def gather(values):  # type: ignore[no-untyped-def]
        seen.extend(values)
        return values

    take.__annotations__ = dict.fromkeys(("value", "rest", "named", "return"), typed.hint)
    gather.__annotations__ = dict.fromkeys(("values", "return"), list[typed.hint])  # type: ignore[name-defined]
    for name in ("take", "gather"):
        app.tasks.pop(name, None)  # type: ignore[attr-defined]
    task = app.task(name="take", bind=True, pydantic=True)(take)
    body = app.task(name="gather", pydantic=True)(gather)
    direct = task.delay(value, value, other=value)
    steps = chain(task.si(value), task.s(value)).delay()
    chord = (group([task.si(value), task.si(value)]) | body.s()).delay()
    drain(app)
    assert [same(arrived, value) for arrived in seen] == [True] * 10
    for result in (direct.get(timeout=0), steps.get(timeout=0), *chord.get(timeout=0)):
        assert same(result, value) if carries_model(typed.hint) else came_back(value, result)
