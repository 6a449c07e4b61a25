"""A workflow is what was written, however its parts were put together, and it ends."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import pytest

from cloudq import CloudQ, InvalidArguments, Node, chain, chord, group
from cloudq.testing import drain
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def pair(t: Tasks) -> Node[Any]:
    return group(t.same.si(1), t.same.si(2))


# A node that ends in a group, with something of its own, and a step after it.
ENDS_IN_A_GROUP: dict[str, Callable[[Tasks], Node[Any]]] = {
    "a chain with a callback": lambda t: chain(t.same.si(0), pair(t)).link(t.same.si("told")),
    "a chain with an error callback": lambda t: chain(t.same.si(0), pair(t)).on_error(t.told.s()),
    "a chain in such a chain": lambda t: chain(
        t.same.si(0), chain(t.same.si(0), pair(t)).on_error(t.told.s())
    ).on_error(t.told.s()),
    "a body that is a chain": lambda t: chord([t.same.si(0)], chain(t.same.si(0), pair(t))),
    "a body that is a chain with a callback": lambda t: chord(
        [t.same.si(0)], chain(t.same.si(0), pair(t)).on_error(t.told.s())
    ),
    "a body of a body": lambda t: chord(
        [t.same.si(0)], chord([t.same.si(0)], chain(t.same.si(0), pair(t)))
    ),
}


@pytest.mark.parametrize("name", ENDS_IN_A_GROUP)
@pytest.mark.parametrize("how", ["|", "chain", "group in between", "member", "body", "stored"])
def test_the_step_after_a_node_that_ends_in_a_group_gets_its_values(
    app: Bench, t: Tasks, name: str, how: str
) -> None:
    node, same = ENDS_IN_A_GROUP[name](t), t.same.s()
    written: Node[Any] = {
        "|": lambda: node | same,
        "chain": lambda: chain(node, same),
        "group in between": lambda: chain(node, group(same), same),
        "member": lambda: chord([chain(node, same)], same),
        "body": lambda: chord([same.clone().set(immutable=True)], chain(node, same)),
        "stored": lambda: app.signature(chain(node, same).to_dict()),
    }[how]()
    result = written.delay()
    drain(app)
    assert result.get(timeout=0) == ([[1, 2]] if how == "member" else [1, 2])


def test_error_callbacks_of_a_chain_are_those_of_its_steps(app: Bench, t: Tasks) -> None:
    inner = chain(group(t.fail.si(), t.same.si(1)), t.same.s()).on_error(t.told.s())
    result = chain(t.same.si(0), inner, t.same.s()).delay()
    drain(app)
    assert result.get(timeout=0, propagate=False) is not None
    assert [run[0] for run in t.runs].count("told") == 1


# Ways to write a chain of many steps of one task.
WAYS: dict[str, Callable[[list[Node[Any]]], Node[Any]]] = {
    "chain(*)": lambda steps: chain(*steps),
    "reduce": lambda steps: functools.reduce(operator.or_, steps),
    "from the right": lambda steps: functools.reduce(lambda a, b: b | a, reversed(steps)),
    "a chain in a chain": lambda steps: functools.reduce(lambda a, b: chain(a, b), steps),
    "and from the right": lambda steps: functools.reduce(lambda a, b: chain(b, a), reversed(steps)),
    "with options at each": lambda steps: functools.reduce(
        lambda a, b: (a | b).set(queue="default"), steps
    ),
    "clones": lambda steps: functools.reduce(lambda a, b: chain(a, b), steps).clone(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_chain_is_the_same_however_it_was_written(app: Bench, t: Tasks, way: str) -> None:
    written = WAYS[way]([t.add.s(0, 0), *(t.add.s(1) for _ in range(300))])
    result = written.delay()
    drain(app)
    assert result.get(timeout=0) == 300
    assert len(t.runs) == 301


@pytest.mark.parametrize("way", ["reduce", "a chain in a chain", "with options at each"])
def test_what_it_costs_to_write_a_chain_grows_with_its_length(t: Tasks, way: str) -> None:
    lines: list[int] = []
    for count in (300, 600):
        steps: list[Node[Any]] = [t.add.s(1) for _ in range(count)]
        lines.append(_calls(lambda given=steps: WAYS[way](given)))
    assert lines[1] < 2.5 * lines[0]


def _calls(run: Callable[[], object]) -> int:
    """Count the calls of Python functions that something makes."""
    import sys

    count = 0

    def profile(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("way", ["chain(*)", "reduce", "clones"])
@pytest.mark.parametrize("end", ["group", "task", "long member"])
def test_hundreds_of_groups_one_after_the_other(app: Bench, t: Tasks, way: str, end: str) -> None:
    node = WAYS[way]([pair(t) for _ in range(150)])
    if end == "task":
        node |= t.total.s()
    if end == "long member":
        node = chord([node], t.same.s())
    result = node.delay()
    drain(app)
    expected = {"group": [1, 2], "task": 3, "long member": [[1, 2]]}[end]
    assert result.get(timeout=0) == expected
    assert len([run for run in t.runs if run[0] == "same" and run[1] in (1, 2)]) == 300
    at, seen = result, 0
    while at is not None:
        assert at.ready()
        at, seen = at.parent, seen + 1
    assert seen >= 1


def test_a_member_that_fails_among_hundreds_of_groups_ends_all_after_it(
    app: Bench, t: Tasks
) -> None:
    groups = [pair(t) for _ in range(100)]
    groups[30] = group(t.fail.si(), t.same.si(2))
    result = chain(*groups, t.total.s()).delay()
    drain(app)
    assert result.failed()
    assert {leaf.state for leaf in result.parent.leaves()} == {"FAILURE"}


@pytest.mark.parametrize("end", ["fails", "revoked", "expires", "member", "body"])
@pytest.mark.parametrize("count", [20, 60, 130])
def test_the_steps_that_never_come_have_an_end_in_a_worker_too(
    app: CloudQ, t: Tasks, end: str, count: int
) -> None:
    first = t.same.si(0).set(expires=0) if end == "expires" else t.fail.si()
    steps = chain(first, *(t.same.si(n) for n in range(count)))
    node: Node[Any] = {
        "member": lambda: chord([steps, t.same.si(1)], t.same.s()),
        "body": lambda: chord([t.same.si(1)], steps),
    }.get(end, lambda: steps)()
    result = node.delay()
    at: Any = result.parent.results[0] if end == "member" else result
    if end == "revoked":
        result.revoke()
    drain(app)
    for _ in range(count):
        assert app.AsyncResult(at.id).ready()
        at = at.parent
    assert result.ready()


def test_a_generator_that_was_read_is_no_empty_group(app: Bench, t: Tasks) -> None:
    header = group(t.same.si(n) for n in range(3))
    chord(header, t.total.s()).delay()
    for again in (header, chord(header, t.total.s()), header | t.total.s()):
        for start in (again.delay, again.clone, again.to_dict):
            with pytest.raises(InvalidArguments, match="came from a generator"):
                start()
    app.work()
    assert t.runs[-1] == ("total", [0, 1, 2])


def test_error_callbacks_that_nest_too_deep_are_refused_at_the_call(app: Bench, t: Tasks) -> None:
    callback: Node[Any] = t.told.s()
    for _ in range(150):
        callback = t.fail.si().link_error(callback)
    itself = t.fail.si()
    itself.link_error(chain(t.same.si(1), itself))
    for node in (callback, chain(t.same.si(1), callback), group(callback), itself):
        with pytest.raises(InvalidArguments, match=r"deeper than 100 levels|contains itself"):
            node.delay()
    assert app.left() == 0


# ---- ids that the caller gives within a task


REPLACEMENTS: dict[str, Callable[[Tasks], Node[Any]]] = {
    "chain": lambda t: chain(t.same.si("g").set(task_id="given"), t.same.s()),
    "group": lambda t: group(t.same.si("g").set(task_id="given"), t.same.si("h")),
    "chord": lambda t: chord([t.same.si("g").set(task_id="given")], t.same.s()),
    "callback": lambda t: t.same.si("h").link(t.same.si("g").set(task_id="given")),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
@pytest.mark.parametrize("where", ["alone", "in a chain", "in a header"])
def test_an_id_that_was_used_runs_again_in_a_replacement(
    app: Bench, t: Tasks, name: str, where: str
) -> None:
    @app.task(name="becomes", bind=True)
    def becomes(self: Any) -> None:
        self.replace(REPLACEMENTS[name](t))

    for runs in (1, 2, 3):
        node: Node[Any] = {
            "alone": lambda: becomes.si(),
            "in a chain": lambda: chain(t.same.si(0), becomes.si(), t.same.s()),
            "in a header": lambda: chord([becomes.si(), t.same.si(0)], t.same.s()),
        }[where]()
        result = node.delay()
        app.work()
        assert result.successful()
        assert t.runs.count(("same", "g")) >= runs


def test_two_replacements_at_once_that_share_an_id_both_end(app: Bench, t: Tasks) -> None:
    @app.task(name="becomes", bind=True)
    def becomes(self: Any) -> None:
        self.replace(REPLACEMENTS["chain"](t))

    results = [becomes.delay(), becomes.apply_async(task_id="mine"), becomes.delay()]
    app.work()
    assert [result.get(timeout=0) for result in results] == ["g"] * 3
