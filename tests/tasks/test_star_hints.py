"""Hints of `*args` and `**kwargs`: of each value, or by `Unpack` of all of them together."""

from __future__ import annotations

from typing import Any, NotRequired, Unpack

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from cloudq import CloudQ, EncodeError, InvalidArguments, chain
from cloudq.testing import drain


class Order(BaseModel):
    id: int


class Sub(Order):
    more: int = 0


class Options(TypedDict):
    order: Order
    count: NotRequired[int]


class Plain(TypedDict, total=False):
    count: int


def test_a_typed_dict_for_all_keywords_is_whole_and_checked(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(first: int, **options: Unpack[Options]) -> list[Any]:
        return [first, type(options["order"]).__name__, options.get("count")]

    sent = [take.delay(1, order=Order(id=1)), take.delay(2, order=Order(id=1), count=3)]
    drain(plain)
    assert [result.get(timeout=0) for result in sent] == [[1, "Order", None], [2, "Order", 3]]
    with pytest.raises(InvalidArguments, match=r"take: options\.order\.id: "):
        take.delay(1, order={"id": "x"})  # type: ignore[typeddict-item]
    with pytest.raises(InvalidArguments, match=r"take: options\.order: Field required"):
        take.apply_async((1,), {"count": 3})
    with pytest.raises(EncodeError, match="take: options "):
        take.delay(1, order=Sub(id=1, more=2))
    assert drain(plain) == []


def test_where_all_is_checked_a_typed_dict_is_too(plain: CloudQ) -> None:
    @plain.task(name="add", pydantic=True)
    def add(**options: Unpack[Plain]) -> Any:
        return options

    result = add.apply_async((), {"count": "3"})
    drain(plain)
    assert result.get(timeout=0) == {"count": 3}
    with pytest.raises(InvalidArguments, match=r"add: options\.count: "):
        add.apply_async((), {"count": "x"})


def test_a_tuple_for_all_positions_is_whole_and_checked(plain: CloudQ) -> None:
    @plain.task(name="pair")
    def pair(*both: *tuple[int, Order]) -> list[Any]:
        return [type(each).__name__ for each in both]

    @plain.task(name="many")
    def many(*orders: *tuple[Order, ...]) -> list[Any]:
        return [type(each).__name__ for each in orders]

    sent = [pair.delay(1, Order(id=1)), many.delay(Order(id=1), Order(id=2)), many.delay()]
    drain(plain)
    assert [each.get(timeout=0) for each in sent] == [["int", "Order"], ["Order", "Order"], []]
    with pytest.raises(InvalidArguments, match=r"pair: both\.1\.id: "):
        pair.delay(1, {"id": "x"})  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=r"pair: both\.1: Field required"):
        pair.apply_async((1,))
    assert drain(plain) == []


def test_a_step_that_gets_the_value_before_it_among_them(plain: CloudQ) -> None:
    @plain.task(name="one")
    def one() -> int:
        return 1

    @plain.task(name="pair")
    def pair(*both: *tuple[int, Order]) -> list[Any]:
        return [type(each).__name__ for each in both]

    result = chain(one.s(), pair.s(Order(id=1))).delay()
    drain(plain)
    assert result.get(timeout=0) == ["int", "Order"]
