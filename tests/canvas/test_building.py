"""Workflows made with `|`: their cost is their length, and none changes another it was made of."""

from __future__ import annotations

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import CloudQ, InvalidArguments, Node, Signature, chain, chord, group
from cloudq.testing import drain

LONG = 10_000
# Seconds of CPU: a tenth of it is needed, and a cost by the square of the length took 17 and more.
ENOUGH = 10.0


def call(name: object) -> Signature[Any]:
    return Signature(str(name))


def names(node: Node[Any]) -> list[str]:
    return [repr(step).removesuffix("()") for step in node.parts()]


KINDS = [
    "a step behind",
    "a step before",
    "a chain behind",
    "a chord behind",
    "a chord of its own",
    "made anew",
]


def longer(kind: str, made: Node[Any], n: int) -> Node[Any]:
    match kind:
        case "a step before":
            return call(n) | made
        case "a chain behind":
            return made | (call(n) | call("x"))
        case "a chord behind":
            members: Node[Any] = group(call(n), call("y"))
            return made | (members | call("z"))
        case "a chord of its own":
            return made | chord([call(n)], call("z"))
        case "made anew" if n % 1_000 == 0:
            return chain(made, call(n))
        case _:
            return made | call(n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [call("s"), chord([call("s")], call("t")), group(call("s"))])
def test_ten_thousand_steps_do_not_cost_their_square(kind: str, first: Node[Any]) -> None:
    began = time.process_time()
    made = first
    for number in range(LONG):
        made = longer(kind, made, number)
    assert time.process_time() - began < ENOUGH
    assert len(made.parts()) >= LONG - 1 or kind == "made anew"


def test_many_steps_at_once_cost_their_number() -> None:
    began = time.process_time()
    many = [call(n) for n in range(LONG)]
    assert len(chain(*many).tasks) == len(chain(many).tasks) == len(group(*many).tasks) == LONG
    assert len(chord(many, call("b")).header.tasks) == LONG
    made: Node[Any] = chain(*many)
    for number in range(LONG):
        made |= call(number)
    assert len(made.parts()) == 2 * LONG
    assert time.process_time() - began < ENOUGH


def test_two_ways_on_from_one_chain_are_two_chains() -> None:
    c = call("a") | call("b")
    d, e = c | call("x"), c | call("y")
    f = d | call("z")
    assert [names(node) for node in (c, d, e, f)] == [
        ["a", "b"],
        ["a", "b", "x"],
        ["a", "b", "y"],
        ["a", "b", "x", "z"],
    ]


def test_steps_changed_later_are_changed_in_one_chain() -> None:
    c: Any = call("a") | call("b")
    d: Any = c | call("c")
    c.tasks.append(call("late"))
    d.tasks[0] = call("other")
    e = d | call("e")
    d.tasks = [call("new")]
    assert names(c) == ["a", "b", "late"]
    assert names(d) == ["new"]
    assert names(e) == ["other", "b", "c", "e"]
    assert names(c | call("f")) == ["a", "b", "late", "f"]


def test_a_group_at_the_end_becomes_a_chord_in_the_new_chain_alone() -> None:
    c = call("a") | group(call("b"), call("c"))
    d, e = c | call("x"), c | call("y")
    assert names(c) == ["a", "group(b(), c())"]
    assert names(d) == ["a", "chord(group(b(), c()), x())"]
    assert names(e) == ["a", "chord(group(b(), c()), y())"]
    assert names(d | call("z")) == [*names(d), "z"]


def test_what_a_chain_was_given_stays_its_own() -> None:
    c = call("a") | call("b")
    c.link(call("done"))
    d = c | call("x")
    assert d.parts()[0] is c
    c = call("a") | call("b")
    d = c | call("x")
    c.link(call("done")).set(queue="other")
    assert not d.links
    assert not d.options


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, Node[Any].clone])
def test_a_copy_of_a_chain_goes_on_alone(copied: Any) -> None:
    c = call("a") | call("b")
    d, e = c | call("x"), copied(c) | call("y")
    assert (names(c), names(d), names(e)) == (["a", "b"], ["a", "b", "x"], ["a", "b", "y"])
    assert pickle.loads(pickle.dumps(d)) == d


def test_a_chain_that_contains_itself_is_refused() -> None:
    c: Any = call("a") | call("b")
    c.tasks.append(c)
    with pytest.raises(InvalidArguments, match="contains itself"):
        assert c | call("x")


def test_threads_go_on_from_one_chain() -> None:
    for _ in range(50):
        c = call("a") | group(call("b"), call("c"))

        def build(number: int, c: Node[Any] = c) -> list[str]:
            made = c
            for step in range(20):
                made = made | call(f"{number}.{step}")
            return names(made)

        with ThreadPoolExecutor(4) as pool:
            for number, found in enumerate(pool.map(build, range(4))):
                assert found[0] == "a"
                assert found[1] == f"chord(group(b(), c()), {number}.0())"
                assert found[2:] == [f"{number}.{step}" for step in range(1, 20)]


Nodes = st.SearchStrategy[Node[Any]]


def sequence(one: Node[Any], two: Node[Any]) -> Node[Any]:
    return one | two


def composed(inner: Nodes) -> Nodes:
    some = st.lists(inner, max_size=3)
    made: list[st.SearchStrategy[Any]] = [
        st.builds(chain[Any], some),
        st.builds(group[Any], some),
        st.builds(chord[Any], st.lists(inner, min_size=1, max_size=2), inner),
        st.builds(sequence, inner, inner),
    ]
    return st.one_of(made)


CALLS: Nodes = st.sampled_from("abc").map(call)
PIECES: Nodes = st.recursive(CALLS, composed, max_leaves=6)


@given(st.lists(PIECES, min_size=2, max_size=6))
def test_steps_are_the_same_however_they_were_put_together(pieces: list[Node[Any]]) -> None:
    """A chain that shares its steps equals one whose steps were looked at, at each step."""
    made = looked = pieces[0]
    history: list[tuple[Node[Any], Any]] = []
    for piece in pieces[1:]:
        made = made | piece
        history.append((made, made.clone().to_dict()))
        looked = looked.clone()  # has a list of its own, which is joined step by step
        looked = looked | piece.clone()
        assert made == looked
    for node, was in history:
        assert node.to_dict() == was


def alone(member: Node[Any]) -> Node[Any]:
    return group[Any](member)


def twice_alone(member: Node[Any]) -> Node[Any]:
    return group[Any](group[Any](member))


@pytest.mark.parametrize("last", [call("l"), group(call("l"), call("m"))])
@pytest.mark.parametrize("wrap", [alone, twice_alone])
def test_a_group_of_one_chain_is_the_steps_of_that_chain(last: Node[Any], wrap: Any) -> None:
    member = call("b") | call("c")
    assert last | wrap(member) == last | call("b") | call("c")
    assert last | wrap(call("a") | wrap(member)) | call("z") == (
        last | call("a") | call("b") | call("c") | call("z")
    )


def test_a_long_chain_made_with_bars_runs() -> None:
    app = CloudQ("building", broker="memory://building", backend="memory://building")

    @app.task(name="one")
    def one(n: int = 0) -> int:
        return n + 1

    made: Any = one.s(0)
    for _ in range(299):
        made |= one.s()
    result = made.delay()
    drain(app)
    assert result.get(timeout=30) == 300
