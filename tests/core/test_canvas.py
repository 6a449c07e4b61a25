"""Workflows: what runs, with which arguments, and what it comes to, as Celery's do."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq import ChordError, CloudQ, GroupResult, chain, chord, group
from cloudq.canvas.nodes import from_dict, to_dict
from cloudq.record import State
from tests.core.bench import Bench


class Tasks:
    """The tasks that the workflows are made of."""

    def __init__(self, app: CloudQ) -> None:
        self.runs: list[Any] = []
        runs = self.runs

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            runs.append(("add", x, y))
            return x + y

        @app.task(name="total")
        def total(values: list[int]) -> int:
            runs.append(("total", values))
            return sum(values)

        @app.task(name="same")
        def same(value: Any = None) -> Any:
            runs.append(("same", value))
            return value

        @app.task(name="fail")
        def fail(*_: Any) -> None:
            raise ValueError("on purpose")

        @app.task(name="seen")
        def seen(request: dict[str, Any], error: str, traceback: str) -> None:
            runs.append(("seen", request["id"], error))

        @app.task(name="told")
        def told(id: str) -> None:
            runs.append(("told", id))

        self.add, self.total, self.same, self.fail = add, total, same, fail
        self.seen, self.told = seen, told


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def come_to(app: Bench, node: Any) -> Any:
    result = node.delay()
    app.work()
    return result.get(timeout=0)


# What each comes to was tried with Celery 5.7.
CASES: dict[str, tuple[Any, Any]] = {
    "chain": (lambda t: t.add.s(1, 2) | t.add.s(3), 6),
    "long chain": (lambda t: chain([t.add.s(0, 0), *(t.add.s(1) for _ in range(20))]), 20),
    "immutable": (lambda t: t.add.s(1, 2) | t.add.si(5, 5), 10),
    "group": (lambda t: group(t.add.s(1, 2), t.add.s(3, 4)), [3, 7]),
    "group of a generator": (lambda t: group(t.add.s(n, n) for n in range(5)), [0, 2, 4, 6, 8]),
    "group | task": (lambda t: group(t.add.s(1, 2), t.add.s(3, 4)) | t.total.s(), 10),
    "chord": (lambda t: chord([t.add.s(1, 2), t.add.s(3, 4)], t.total.s()), 10),
    "chord of a generator": (
        lambda t: chord((t.add.s(n, 0) for n in range(250)), t.total.s()),
        31125,
    ),
    "chord with no members": (lambda t: chord([], t.total.s()), 0),
    "chord with one member": (lambda t: group(t.add.s(1, 2)) | t.same.s(), [3]),
    "task | group": (lambda t: t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)), [6, 7]),
    "task | group | task": (
        lambda t: t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)) | t.total.s(),
        13,
    ),
    "task | group of one | task": (lambda t: t.add.s(1, 2) | group(t.add.s(3)) | t.same.s(), 6),
    "task | empty group | task": (lambda t: t.add.s(1, 2) | group() | t.same.s(), []),
    "empty group | task": (lambda t: group() | t.same.s(), []),
    "group | group": (
        lambda t: group(t.add.s(1, 2), t.add.s(3, 4)) | group(t.total.s(), t.same.s()),
        [10, [3, 7]],
    ),
    "group | group | task": (
        lambda t: (
            group(t.add.s(1, 2), t.add.s(3, 4)) | group(t.total.s(), t.total.s()) | t.total.s()
        ),
        20,
    ),
    "chord | task": (lambda t: chord([t.add.s(1, 2)], t.total.s()) | t.add.s(3), 6),
    "nested group in a header": (
        lambda t: chord([group(t.add.s(1, 1), t.add.s(2, 2)), t.add.s(3, 3)], t.same.s()),
        [2, 4, 6],
    ),
    "chain in a header": (
        lambda t: chord([t.add.s(1, 1) | t.add.s(2), t.add.s(3, 3)], t.same.s()),
        [4, 6],
    ),
    "chain that ends in a group in a header": (
        lambda t: chord([t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)), t.add.s(1, 1)], t.same.s()),
        [[6, 7], 2],
    ),
    "chord in a chord": (
        lambda t: chord(
            [chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s()), t.add.s(3, 3)], t.same.s()
        ),
        [6, 6],
    ),
    "group of groups": (
        lambda t: group(group(t.add.s(1, 2), t.add.s(3, 4)), t.add.s(5, 6)),
        [3, 7, 11],
    ),
    "chain with a group in a group": (
        lambda t: group(t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)), t.add.s(1, 1)),
        [[6, 7], 2],
    ),
    "chunks": (
        lambda t: t.add.chunks(zip(range(5), range(5), strict=True), 2),
        [[0, 2], [4, 6], [8]],
    ),
    "map": (lambda t: t.same.map([1, 2]), [1, 2]),
    "starmap | task": (lambda t: t.add.starmap([(1, 2), (3, 4)]) | t.total.s(), 10),
    "a member that is a map": (
        lambda t: chord([t.same.map([1, 2]), t.same.s(3)], t.same.s()),
        [[1, 2], 3],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_workflow_comes_to(app: Bench, t: Tasks, case: str) -> None:
    make, value = CASES[case]
    assert come_to(app, make(t)) == value
    assert app.left() == 0


@pytest.mark.parametrize("case", [case for case in CASES if "generator" not in case])
def test_a_workflow_travels_as_json(app: Bench, t: Tasks, case: str) -> None:
    make, value = CASES[case]
    made = to_dict(make(t))
    node = from_dict(made, app)
    assert to_dict(node) == made
    assert come_to(app, node) == value


def test_a_failed_member_fails_the_body_at_once(app: Bench, t: Tasks) -> None:
    result = chord([t.fail.s(), t.add.s(1, 2)], t.total.s()).delay()
    app.step()
    with pytest.raises(ChordError, match="ValueError: on purpose"):
        result.get(timeout=0)
    app.work()
    assert ("total", [3]) not in t.runs


def test_a_failed_member_of_an_inner_chord_fails_the_outer_one(app: Bench, t: Tasks) -> None:
    inner = chord([t.fail.s(), t.add.s(1, 2)], t.total.s())
    result = chord([inner, t.add.s(1, 2)], t.total.s()).delay()
    app.work()
    with pytest.raises(ChordError):
        result.get(timeout=0)


def test_callbacks_get_the_value_and_error_callbacks_the_request(app: Bench, t: Tasks) -> None:
    t.add.s(1, 2).link(t.same.s()).delay()
    failed = t.fail.s().link_error(t.seen.s()).link_error(t.told.s()).delay()
    app.work()
    assert ("same", 3) in t.runs
    assert ("seen", failed.id, "ValueError: on purpose") in t.runs
    assert ("told", failed.id) in t.runs


def test_the_steps_after_a_failed_one_do_not_run(app: Bench, t: Tasks) -> None:
    result = (t.fail.s() | t.same.s() | t.same.s()).delay()
    app.work()
    assert t.runs == []
    assert result.parent.parent.state is State.FAILURE


def test_a_replaced_task_is_what_replaces_it(app: Bench, t: Tasks) -> None:
    def replaced(self: Any, how: str) -> None:
        ways = {
            "task": t.add.s(1, 2),
            "chain": t.add.s(1, 2) | t.add.s(3),
            "group": group(t.add.s(1, 2), t.add.s(3, 4)),
            "chord": chord([t.add.s(1, 2), t.add.s(3, 4)], t.total.s()),
        }
        self.replace(ways[how])

    task = app.task(name="replaced", bind=True)(replaced)
    for how, value in (("task", 3), ("chain", 6), ("group", [3, 7]), ("chord", 10)):
        result = task.delay(how)
        after = (task.s(how) | t.same.s()).delay()
        joined = chord([task.s(how), t.same.s(1)], t.same.s()).delay()
        app.work()
        assert result.get(timeout=0) == value
        assert after.get(timeout=0) == value
        assert joined.get(timeout=0) == [value, 1]


def test_a_member_may_add_members(app: Bench, t: Tasks) -> None:
    def more(self: Any) -> int:
        self.add_to_chord(t.add.s(10, 10))
        self.add_to_chord(t.add.s(1, 1) | t.add.s(2))
        return 1

    task = app.task(name="more", bind=True)(more)
    assert come_to(app, chord([task.s(), t.same.s(5)], t.same.s())) == [1, 5, 20, 4]


def test_a_redelivered_member_counts_once(app: Bench, t: Tasks) -> None:
    result = chord([t.add.s(1, 2), t.add.s(3, 4)], t.total.s()).delay()
    first = app.one()
    app.settle(first)
    app.lose_leases()  # it was not acked, as after a crash
    app.work()
    assert result.get(timeout=0) == 10
    assert sum(run[0] == "total" for run in t.runs) == 1


def test_a_runaway_is_stopped(app: Bench) -> None:
    app.conf.max_depth = 5

    @app.task(name="runaway")
    def runaway() -> None:
        runaway.delay()

    runaway.delay()
    assert app.work()[-1].state is State.FAILURE


@pytest.mark.parametrize("case", CASES)
def test_eager_workflows_come_to_the_same(case: str) -> None:
    make, value = CASES[case]
    with CloudQ("eager", broker="memory://eager", task_always_eager=True) as app:
        assert make(Tasks(app)).delay().get() == value


def test_an_eager_chain_ends_with_its_failure() -> None:
    with CloudQ("eager", broker="memory://eager", task_always_eager=True) as app:
        t = Tasks(app)
        result = (t.fail.s() | t.same.s()).delay()
        assert result.failed()
        with pytest.raises(ChordError):
            chord([t.fail.s(), t.same.s(1)], t.total.s()).delay().get()
        assert ("same", None) not in t.runs


def test_a_chain_whose_first_step_failed_raises_that_at_once(app: Bench, t: Tasks) -> None:
    result = (t.fail.s() | t.same.s() | t.same.s()).delay()
    app.work()
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.fail.s() | group(t.same.s(), t.same.s()),
        lambda t: t.fail.s() | group(t.same.s() | t.same.s(), group(t.same.s())),
        lambda t: group(t.fail.s(), t.same.s(1)) | group(t.same.s(), t.same.s()),
        lambda t: group(t.fail.s(), t.same.s(1)) | t.same.s() | group(t.same.s(), t.same.s()),
    ],
)
def test_a_group_after_what_failed_does_not_wait(app: Bench, t: Tasks, make: Any) -> None:
    result = make(t).delay()
    app.work()
    with pytest.raises((ValueError, ChordError), match="on purpose"):
        result.get(timeout=0)


def test_the_results_of_a_group(app: Bench, t: Tasks) -> None:
    result = group(t.add.s(1, 2), t.fail.s(), t.add.s(3, 4)).delay()
    assert (len(result), result.ready(), result.completed_count()) == (3, False, 0)
    app.step()
    assert (result.waiting(), result.completed_count(), result.failed()) == (True, 1, False)
    app.work()
    assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
    assert [str(error) for error in result.failures()] == ["on purpose"]
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=0)
    first, failed, last = result.get(timeout=0, propagate=False)
    assert (first, str(failed), last) == (3, "on purpose", 7)


def test_a_group_costs_one_read_a_hundred_members(app: Bench, t: Tasks) -> None:
    result = group(t.same.s(n) for n in range(250)).delay()
    app.work()
    app.store.calls.clear()
    assert result.get(timeout=0) == list(range(250))
    assert app.store.calls["get"] == 3


def test_a_group_is_saved_and_restored(app: Bench, t: Tasks) -> None:
    result = (t.add.s(1, 2) | group(t.add.s(3), t.add.s(4))).delay()
    result.save()
    app.work()
    found = app.restore_group(result.id)
    assert isinstance(found, GroupResult)
    assert found.get(timeout=0) == [6, 7]
    assert found.parent is not None
    assert found.parent.get(timeout=0) == 3
    assert found.as_tuple() == result.as_tuple()
    assert app.restore_group("none") is None


def test_a_revoked_group_is_not_run(app: Bench, t: Tasks) -> None:
    result = group(t.same.s(n) for n in range(3)).delay()
    result.revoke()
    app.work()
    assert t.runs == []
    assert {leaf.state for leaf in result.leaves()} == {State.REVOKED}


def test_a_revoked_member_fails_its_chord(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    result.parent[0].revoke()
    app.work()
    with pytest.raises(ChordError, match="failed"):
        result.get(timeout=0)


def test_members_know_their_root_their_parent_and_their_group(app: Bench, t: Tasks) -> None:
    seen: list[Any] = []

    def look(self: Any, *_: Any) -> None:
        request = self.request
        seen.append((request.id, request.root_id, request.parent_id, request.group))

    task = app.task(name="look", bind=True)(look)
    result = (task.s() | group(task.s(), task.s()) | task.s()).delay()
    app.work()
    header = result.parent
    first = header.parent
    members = [leaf.id for leaf in header.leaves()]
    assert seen[0] == (first.id, first.id, None, None)
    assert {entry[0] for entry in seen[1:3]} == set(members)
    assert {entry[1:] for entry in seen[1:3]} == {(first.id, first.id, header.id)}
    assert seen[3][:2] == (result.id, first.id)


def test_a_chord_without_a_backend_is_refused(t: Tasks) -> None:
    with CloudQ("bare", broker="memory://bare", backend="none") as app:
        bare = Tasks(app)
        with pytest.raises(Exception, match="joins its members in the result backend"):
            chord([bare.same.s(1)], bare.total.s()).delay()
        assert (bare.add.s(1, 2) | bare.add.s(3)).delay() is not None


def test_what_is_no_signature_is_refused(t: Tasks) -> None:
    with pytest.raises(Exception, match="is no signature"):
        group([t.add.s(1, 2), 5])  # type: ignore[list-item]
    with pytest.raises(Exception, match="is no signature"):
        from_dict({"nothing": 1})
    with pytest.raises(Exception, match="a chord needs a body"):
        chord([t.add.s(1, 2)]).delay()
    with pytest.raises(Exception, match="belongs to no app"):
        from_dict({"task": "t"}).delay()


def test_a_signature_is_checked_against_its_task(t: Tasks) -> None:
    with pytest.raises(Exception, match="too many positional"):
        t.add.s(1, 2, 3).delay()
