"""A key that a typed dict does not have is refused where it is sent, and read where it arrives."""

from __future__ import annotations

import sys
import typing
from dataclasses import dataclass
from typing import Any, Unpack

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from cloudq import CloudQ, EncodeError, InvalidArguments, chain
from cloudq.tasks.call_options import Options
from cloudq.testing import drain


class Row(TypedDict):
    a: int


class Rows(TypedDict, total=False):
    rows: list[Row]
    inner: Rows


class Open(TypedDict, extra_items=int):  # type: ignore[call-arg]
    a: int


class Standard(typing.TypedDict):
    a: int


class Model(BaseModel):
    row: Row


@dataclass
class Holder:
    row: Row


MORE = {"a": 1, "x": 2}

DROPPED: list[tuple[Any, Any]] = [
    (Row, MORE),
    (list[Row], [{"a": 1}, MORE]),
    (dict[str, Row | None], {"k": MORE}),
    (tuple[int, Row], (1, MORE)),
    (Rows, {"rows": [MORE]}),
    (Rows, {"inner": {"rows": [], "x": 1}}),
    (Holder, Holder(MORE)),  # type: ignore[arg-type]
    (Model | Row, MORE),
]


@pytest.mark.parametrize(("hint", "value"), DROPPED)
def test_an_extra_key_is_refused_when_it_is_sent(plain: CloudQ, hint: Any, value: Any) -> None:
    def take(value):  # type: ignore[no-untyped-def]
        return None

    def give():  # type: ignore[no-untyped-def]
        return value

    take.__annotations__ = {"value": hint}
    give.__annotations__ = {"return": hint}
    task = plain.task(name="take")(take)
    for call in (task.delay, lambda value: chain(task.s(value), task.si(value)).delay()):
        with pytest.raises((InvalidArguments, EncodeError), match="take: value"):
            call(value)
    result = plain.task(name="give", max_retries=0)(give).delay()
    assert len(drain(plain)) == 1
    with pytest.raises(EncodeError, match="the result of give"):
        result.get(timeout=0)


KEPT: list[tuple[Any, Any]] = [
    (Row, {"a": 1}),
    (Open, MORE),
    (Rows, {"rows": [{"a": 1}], "inner": {"inner": {}}}),
    (dict[str, int], MORE),
]


@pytest.mark.parametrize(("hint", "value"), KEPT)
def test_a_typed_dict_arrives_whole(plain: CloudQ, hint: Any, value: Any) -> None:
    seen: list[Any] = []

    def take(value):  # type: ignore[no-untyped-def]
        seen.append(value)
        return value

    take.__annotations__ = dict.fromkeys(("value", "return"), hint)
    result = plain.task(name="take")(take).delay(value)
    drain(plain)
    assert seen == [value]
    assert result.get(timeout=0) == value


def test_an_extra_keyword_is_refused(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(**options: Unpack[Row]) -> None: ...

    with pytest.raises(InvalidArguments, match=r"take: options\.x: Extra inputs"):
        take.apply_async((), MORE)


def test_one_of_typing_is_never_less_than_what_was_sent(plain: CloudQ) -> None:
    seen: list[Any] = []

    @plain.task(name="take")
    def take(row: Standard) -> None:
        seen.append(row)

    if sys.version_info >= (3, 12):
        with pytest.raises(InvalidArguments, match=r"take: row\.x: Extra inputs"):
            take.apply_async((MORE,))
        return
    take.apply_async((MORE,))
    drain(plain)
    assert seen == [MORE]


def test_what_another_producer_sent_is_read_without_the_key(plain: CloudQ) -> None:
    seen: list[Any] = []

    @plain.task(name="take")
    def take(row: Row) -> None:
        seen.append(row)

    message = plain.publisher.builder.of_call(take, Options(), ({"a": 1},), {})
    plain.broker.send([message.model_copy(update={"args": [MORE]})])
    drain(plain)
    assert seen == [{"a": 1}]
