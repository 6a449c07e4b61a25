"""Dataclasses whose methods are not generated behave as generated ones do."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field, fields, replace

from hypothesis import given
from hypothesis import strategies as st

from cloudq.driver.immutable import immutable


@immutable
class Made:
    """One whose methods are shared."""

    name: str
    number: int = 0
    unseen: float = field(default=0.0, compare=False)
    secret: str = field(default="s", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The same fields, with the methods that `dataclass` writes."""

    name: str
    number: int = 0
    unseen: float = field(default=0.0, compare=False)
    secret: str = field(default="s", repr=False)


@immutable
class One:
    """A class with one field: its value is compared as it is, not in a tuple."""

    value: object


@immutable
class Own:
    """A class that says itself what is equal."""

    value: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and self.value % 2 == other.value % 2

    def __hash__(self) -> int:
        return self.value % 2

    def __repr__(self) -> str:
        return "own"


VALUES = st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.floats(0, 1), st.sampled_from("st"))


@given(VALUES, VALUES)
def test_equality_hash_and_text_are_those_of_a_generated_class(
    one: tuple[str, int, float, str], two: tuple[str, int, float, str]
) -> None:
    names = [each.name for each in fields(Made)]
    first, second = (Made(**dict(zip(names, of, strict=True))) for of in (one, two))  # pyright: ignore[reportArgumentType]
    left, right = (Generated(**dict(zip(names, of, strict=True))) for of in (one, two))  # pyright: ignore[reportArgumentType]
    assert (first == second) is (left == right)
    assert (hash(first) == hash(second)) is (hash(left) == hash(right))
    assert repr(first) == repr(left).replace("Generated", "Made")
    assert first != left


def test_copies_are_equal() -> None:
    made = Made(name="x", number=3, unseen=1.5, secret="p")
    for same in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert same == made
        assert same.unseen == 1.5
    assert replace(made, number=4) != made
    assert not hasattr(made, "__dict__")


def test_one_field_is_compared_by_its_value() -> None:
    assert One(value=1) == One(value=1.0)
    assert hash(One(value="x")) == hash(One(value="x"))
    assert One(value=(1,)) != One(value=1)
    assert repr(One(value=[1])) == "One(value=[1])"


def test_own_methods_stay() -> None:
    assert Own(value=1) == Own(value=3)
    assert hash(Own(value=1)) == hash(Own(value=3))
    assert repr(Own(value=1)) == "own"
