"""Workflows whose workers die: at every call to the broker or the store, before it and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloudq import ChordError, Ignore, State
from cloudq.driver.ends import Died
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Action
from cloudq.tasks.signature import chord, group
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


class Mortal:
    """A driver that dies at its n-th call, counted over all that share `calls`."""

    def __init__(self, inner: Any, calls: Iterator[int], at: int, *, after: bool) -> None:
        self._inner = inner
        self._calls = calls
        self._at = at
        self._after = after

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in _CALLS:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            fatal = next(self._calls) == self._at
            if fatal and not self._after:
                raise Died(name)
            answer = value(*args, **kwargs)
            if fatal:
                raise Died(name)
            return answer

        return call


_CALLS = frozenset(
    {"send", "receive", "ack", "release", "dead_letter", "put", "get", "update", "delete"}
)

WORKFLOWS: dict[str, tuple[Callable[[Tasks], Any], Any]] = {
    "chain": (lambda t: t.add.s(1, 2) | t.add.s(3) | t.add.s(4), 10),
    "chord": (lambda t: chord([t.add.s(1, 2), t.add.s(3, 4), t.same.s(5)], t.total.s()), 15),
    "chord in a chain": (
        lambda t: t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)) | t.total.s() | t.add.s(1),
        14,
    ),
    "chord in a chord": (
        lambda t: chord([group(t.same.s(1), t.same.s(2)) | t.total.s(), t.same.s(3)], t.total.s()),
        6,
    ),
}


def run(app: Bench, node: Any, at: int, *, after: bool) -> tuple[Any, bool]:
    """Run a workflow with one death on the way; what it came to, and whether anything died."""
    result = node.delay()
    calls = iter(range(10**6))
    living = app.broker.driver, app.results.driver
    app.broker.driver = Mortal(app.wire, calls, at, after=after)  # type: ignore[assignment]
    app.results.driver = Mortal(app.store, calls, at, after=after)  # type: ignore[assignment]
    died = False
    try:
        app.work()
    except Died:
        died = True
    finally:
        app.broker.driver, app.results.driver = living
    app.lose_leases()
    app.work()
    return result.get(timeout=0), died


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_death_at_any_call_changes_nothing(workflow: str, after: bool) -> None:
    make, value = WORKFLOWS[workflow]
    for at in range(1000):
        with Bench(default_retry_delay=0.0) as app:
            t = Tasks(app)
            came_to, died = run(app, make(t), at, after=after)
            assert came_to == value, at
            assert app.left() == 0, at
            bodies = [r for r in t.runs if r[0] == "total"]
            assert len(bodies) <= sum(1 for r in {str(r) for r in bodies}) + 1, (at, bodies)
        if not died:
            assert at > 10
            return
    raise AssertionError("it never ended")


def test_a_body_that_the_broker_refused_is_sent_at_the_next_try(app: Bench) -> None:
    t = Tasks(app)
    result = chord([t.same.s(1)], t.total.s()).delay()
    delivery = app.one()
    settled = [(delivery, app.settle(delivery))]
    app.wire.down.add("send")
    refused = commit(settled, app.broker, app.results, app.workflows.joins)
    assert (len(refused.ready), len(refused.failed)) == (0, 1)
    app.wire.down.clear()
    done = commit(settled, app.broker, app.results, app.workflows.joins)
    # It would be released if it had to wait for the end of the claim.
    assert [each.action for _, each in done.ready] == [Action.ACK]
    dispose(done.ready, app.broker)
    app.work()
    assert result.get(timeout=0) == 1


def test_a_member_that_ended_while_it_came_again_still_leaves_its_join(app: Bench) -> None:
    t = Tasks(app)
    result = chord([t.same.s(1)], t.total.s()).delay()
    first = app.one()
    settlement = app.settle(first)
    app.lose_leases()
    second = app.one()
    records = app.runner._admission._records  # pyright: ignore[reportPrivateUsage]

    def recorded_meanwhile(jobs: Any) -> Any:
        found = records(jobs)
        assert settlement.record is not None
        app.results.store([settlement.record])  # and its worker dies before it leaves the join
        return found

    app.runner._admission._records = recorded_meanwhile  # type: ignore[method-assign]
    again = app.settle(second)
    del app.runner._admission._records  # type: ignore[attr-defined]
    app.finish(second, again)
    app.work()
    assert result.get(timeout=0) == 1


def test_of_two_runs_of_a_member_the_recorded_one_counts_at_its_join(app: Bench) -> None:
    t = Tasks(app)
    runs: list[int] = []

    @app.task(name="coin", max_retries=0)
    def coin() -> int:
        runs.append(1)
        if len(runs) > 1:
            raise ValueError("the second time")
        return 5

    result = chord([coin.s(), t.same.s(1)], t.total.s()).delay()
    first = app.one()
    won = app.settle(first)
    app.lose_leases()
    [second] = [each for each in app.receive(2) if each.id == first.id]
    lost = app.settle(second)
    assert lost.state is State.FAILURE
    commit(
        [(first, won)], app.broker, app.backend, app.workflows.joins
    )  # it does not know that its lease was lost
    app.finish(second, replace(lost, fenced=True))
    app.work()
    assert app.record(result.parent[0]).state is State.SUCCESS
    assert result.get(timeout=0) == 6


def test_a_late_failure_of_a_step_that_has_succeeded_ends_no_chain(app: Bench) -> None:
    t = Tasks(app)
    runs: list[int] = []

    @app.task(name="coin", max_retries=0)
    def coin() -> int:
        runs.append(1)
        if len(runs) > 1:
            raise ValueError("the second time")
        return 5

    result = (coin.s() | t.same.s()).delay()
    first = app.one()
    won = app.settle(first)
    app.lose_leases()
    second = app.one()
    lost = app.settle(second)
    assert lost.failed_steps
    commit([(first, won)], app.broker, app.backend, app.workflows.joins)
    app.finish(second, replace(lost, fenced=True))
    app.work()
    assert result.get(timeout=0) == 5


def test_a_member_that_is_ignored_fails_its_chord(app: Bench) -> None:
    t = Tasks(app)

    @app.task(name="ignored")
    def ignored() -> None:
        raise Ignore

    result = chord([ignored.s(), t.same.s(1)], t.total.s()).delay()
    app.work()
    with pytest.raises(ChordError, match="ignored by the task"):
        result.get(timeout=0)
