"""Workflows: what runs, with which arguments, and what it comes to, as Celery's do."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq import ChordError, CloudQ, GroupResult, chord, group
from cloudq.results.record import State
from cloudq.tasks.signature_json import from_dict
from tests.canvas.workflow_cases import CASES
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def come_to(app: Bench, node: Any) -> Any:
    result = node.delay()
    app.work()
    return result.get(timeout=0)


@pytest.mark.parametrize("case", CASES)
def test_what_a_workflow_comes_to(app: Bench, t: Tasks, case: str) -> None:
    make, value = CASES[case]
    assert come_to(app, make(t)) == value
    assert app.left() == 0


@pytest.mark.parametrize("case", [case for case in CASES if "generator" not in case])
def test_a_workflow_travels_as_json(app: Bench, t: Tasks, case: str) -> None:
    make, value = CASES[case]
    made = make(t).to_dict()
    node = from_dict(made, app)
    assert node.to_dict() == made
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


def test_a_redelivered_member_counts_once(app: Bench, t: Tasks) -> None:
    result = chord([t.add.s(1, 2), t.add.s(3, 4)], t.total.s()).delay()
    first = app.one()
    app.settle(first)
    app.lose_leases()  # it was not acked, as after a crash
    app.work()
    assert result.get(timeout=0) == 10
    assert sum(run[0] == "total" for run in t.runs) == 1


def test_a_join_waits_for_a_member_that_is_delayed_past_the_life_of_results() -> None:
    with Bench(result_expires=500.0) as app:
        t = Tasks(app)
        late = t.same.s(2).set(countdown=600)
        result = chord([late, t.same.s(1).set(countdown=600)], t.total.s()).delay()
        app.work()
        assert result.get(timeout=0) == 3


def test_everything_that_a_chord_stores_expires(app: Bench, t: Tasks) -> None:
    chord([t.more.s(), t.same.s(1)], t.total.s()).delay()
    app.work()
    items = app.store.inner._items._items  # type: ignore[attr-defined]
    assert len(items) > 5
    assert all(item.expires for item in items.values())


def test_a_runaway_is_stopped(app: Bench) -> None:
    app.conf.max_depth = 5

    @app.task(name="runaway")
    def runaway() -> None:
        runaway.delay()

    runaway.delay()
    assert app.work()[-1].state is State.FAILURE


# A member that runs here and now has no join to add to.
@pytest.mark.parametrize("case", [case for case in CASES if "added" not in case])
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

    task = app.task(name="looking", bind=True)(look)
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


def test_the_steps_after_a_failed_one_fail_with_it(app: Bench, t: Tasks) -> None:
    last = (t.fail.s() | t.add.s(1) | group(t.add.s(2), t.add.s(3)) | t.total.s()).delay()
    app.work()
    with pytest.raises(ValueError, match="on purpose"):
        app.AsyncResult(last.id).get(timeout=0)  # by its id alone
    assert app.AsyncResult(last.id).state == State.FAILURE


def test_what_follows_a_failed_header_fails_with_it(app: Bench, t: Tasks) -> None:
    last = (group(t.fail.s(), t.add.s(1, 2)) | t.total.s() | t.add.s(1)).delay()
    app.work()
    with pytest.raises(ChordError, match="on purpose"):
        app.AsyncResult(last.id).get(timeout=0)


def test_a_task_replaced_by_a_chain_that_fails_has_failed(app: Bench, t: Tasks) -> None:
    @app.task(bind=True)
    def replaced(self: Any) -> None:
        self.replace(t.fail.s() | t.add.s(1))

    result = replaced.delay()
    app.work()
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=0)


def test_a_failed_step_that_is_sent_again_has_its_chain_run(app: Bench) -> None:
    broken = [True]

    @app.task(dead_letter=True, max_retries=0)
    def first() -> int:
        if broken[0]:
            raise ValueError("on purpose")
        return 1

    @app.task
    def second(n: int) -> int:
        return n + 1

    result = (first.s() | second.s()).delay()
    app.work()
    assert result.state == State.FAILURE
    broken[0] = False
    queues: Any = app.wire.inner
    letters = queues.peek_dead("default", count=5)
    assert not queues.redrive("default", letters)
    app.work()
    assert app.AsyncResult(result.id).get(timeout=0) == 2
