"""Python values on the wire: they come back as they were, or are refused by name."""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import arguments, decode, encode
from cloudq.messages.message import TaskMessage
from cloudq.messages.values import MAX_DEPTH, dump_value, from_wire, load_value, to_wire

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["$uuid", "$", "$dict", "\ufffe\uffff", "\x00", ""]
)
# Offsets to the second, as history has them.
zones = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda offset: timezone(timedelta(seconds=round(offset.total_seconds())))
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1])
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=8)
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashables = scalars | st.frozensets(scalars, max_size=3)
values = st.recursive(
    hashables | st.sets(hashables, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(text, inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left == right and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


@pytest.mark.slow
@given(values)
@settings(max_examples=400)
def test_values_come_back_as_they_were(value: Any) -> None:
    message = TaskMessage(id="a", task="t", args=[to_wire(value)], kwargs={"k": to_wire(value)})
    args, kwargs = arguments(decode(encode(message), limit=1 << 24))
    assert same(args, [value])
    assert same(kwargs, {"k": value})


@pytest.mark.slow
@given(values)
def test_results_come_back_as_they_were(value: Any) -> None:
    assert same(load_value(dump_value(value)), value)


@pytest.mark.slow
@given(
    st.recursive(st.integers(0, 3), lambda inner: st.lists(inner) | st.dictionaries(text, inner))
)
def test_plain_json_is_readable_as_it_is(value: Any) -> None:
    if "$" not in str(value):
        assert to_wire(value) == value


def test_not_a_number_comes_back() -> None:
    assert math.isnan(load_value(dump_value(float("nan"))))
    assert load_value(dump_value(Decimal("NaN"))).is_nan()


def test_equal_sets_are_written_the_same() -> None:
    words = [f"word-{number}" for number in range(50)]
    assert dump_value(set(words)) == dump_value({*words[25:], *words[:25]})


Point = namedtuple("Point", "x y")


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Size(IntEnum):
    BIG = 3


class Name(StrEnum):
    ANNA = "anna"


class Pair(Enum):
    ONE = (1, "one")


class Moment(datetime):
    pass


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (Size.BIG, 3),
        (Name.ANNA, "anna"),
        (bytearray(b"ab"), b"ab"),
        (Moment(2026, 1, 2), datetime(2026, 1, 2)),  # noqa: DTZ001
        ({Name.ANNA: 1}, {"anna": 1}),
    ],
    ids=repr,
)
def test_a_subclass_travels_as_what_it_extends(value: Any, read: Any) -> None:
    assert same(load_value(dump_value(value)), read)


@dataclass
class Address:
    street: str
    tags: frozenset[str]


class User(BaseModel):
    name: str
    joined: datetime
    address: Address


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")
    plain: str = "p"


class Many(RootModel[list[int]]):
    pass


def test_models_become_objects() -> None:
    address = Address("Hauptstr. 1", frozenset({"home"}))
    user = User(name="Anna", joined=datetime(2026, 1, 2), address=address)  # noqa: DTZ001
    assert to_wire(user) == {
        "name": "Anna",
        "joined": {"$datetime": "2026-01-02T00:00:00"},
        "address": {"street": "Hauptstr. 1", "tags": {"$frozenset": ["home"]}},
    }


def test_a_models_field_travels_under_the_name_it_is_read_by() -> None:
    wire = to_wire(Aliased(userId=3))
    assert wire == {"userId": 3, "plain": "p"}
    assert Aliased.model_validate(from_wire(wire)) == Aliased(userId=3)


def test_a_root_model_travels_as_its_root() -> None:
    assert to_wire({"all": Many([1, 2])}) == {"all": [1, 2]}


def test_the_tuple_of_an_enum_stays_a_tuple_however_often_it_is_written() -> None:
    once = load_value(dump_value([Pair.ONE]))
    again = load_value(dump_value(once))
    assert once == again == [(1, "one")]
    assert type(load_value(dump_value({Pair.ONE})).pop()) is tuple


class Unknown:
    pass


@pytest.mark.parametrize(
    "value",
    [Unknown(), [Unknown()], {"a": {1: Unknown()}}, Unknown, print, object(), 1j, iter([])],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_sent_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(EncodeError, match="cannot be sent: pass plain values"):
        to_wire(value)


def test_the_refusal_names_the_type() -> None:
    with pytest.raises(EncodeError, match=rf"a {__name__}.Unknown cannot be sent"):
        to_wire([Unknown()])


def test_an_integer_that_python_would_not_write_is_refused() -> None:
    with pytest.raises(EncodeError, match="an integer of 16610 bits"):
        to_wire(10**5000)


def test_a_value_in_a_circle_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(EncodeError, match="nest deeper than 100 levels"):
        to_wire(circle)


def nested(levels: int, kind: str) -> object:
    value: Any = 1
    for _ in range(levels):
        value = {
            "list": [value],
            "dict": {"a": value},
            "odd": {1: value},
            "tag": {"$a": value},
            "set": frozenset({value}) if kind == "set" else None,
            "tuple": (value,),
        }[kind]
    return value


@pytest.mark.parametrize("kind", ["list", "dict", "odd", "tag", "set", "tuple"])
@pytest.mark.parametrize("levels", [20, 33, 34, 49, 50, 51, 99, 100, 101, 102, 200])
def test_what_is_sent_can_be_read_however_deep(kind: str, levels: int) -> None:
    value = nested(levels, kind)
    cost = {"odd": 3, "tag": 3, "set": 2}.get(kind, 1)
    if levels * cost > MAX_DEPTH:
        with pytest.raises(EncodeError, match=f"nest deeper than {MAX_DEPTH} levels"):
            to_wire(value)
        return
    wire = to_wire(value)
    sent = encode(TaskMessage(id="a", task="t", args=[wire], kwargs={"k": wire}))
    args, kwargs = arguments(decode(sent, limit=1 << 20))
    assert args == [kwargs["k"]]


def test_a_stored_result_that_is_no_json_is_refused() -> None:
    with pytest.raises(DecodeError, match="not JSON"):
        load_value("{")


def test_a_text_with_a_tag_in_it_stays_a_text() -> None:
    value = ['{"$uuid": "5"}', {"a": '"$int"'}]
    assert load_value(dump_value(value)) == value
    assert orjson.loads(dump_value(value)) == value


def nan() -> float:
    return float("nan")


@pytest.mark.parametrize(
    "value",
    [
        {nan(): 1, nan(): 2},
        {nan(), nan()},
        frozenset({nan(), 1.5, nan()}),
        [{"a": {nan(), nan()}}],
        dict.fromkeys([(1, nan()), (1, nan())]),
        {Decimal("nan"), Decimal("nan")},
        {(Decimal("nan"),), (Decimal("nan"),)},
    ],
)
def test_two_keys_or_members_that_are_no_numbers_are_refused(value: object) -> None:
    with pytest.raises(EncodeError, match="they would arrive as one"):
        to_wire(value)


def test_one_that_is_no_number_is_sent() -> None:
    [key] = from_wire(to_wire({nan(): 1}))
    assert math.isnan(key)
    assert len(from_wire(to_wire({nan(), 1.0, Decimal(2)}))) == 3


@pytest.mark.parametrize(
    ("wrap", "most"), [(lambda inner: {1: inner}, 33), (lambda inner: frozenset({inner}), 50)]
)
def test_what_nests_too_deep_is_told_how_levels_count(wrap: Any, most: int) -> None:
    value: Any = 1
    for _ in range(most):
        value = wrap(value)
    to_wire(value)
    with pytest.raises(EncodeError, match="100 levels: a dict with other keys than texts counts"):
        to_wire(wrap(wrap(value)))
