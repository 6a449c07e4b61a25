"""Workflows of which one answer is lost: at each call in turn, after it has had its effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudq import ChordError
from cloudq.canvas.slots import shard_key
from cloudq.driver import Code
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Action, Settlement
from cloudq.tasks.signature import chord, group
from tests.support.bench import Bench
from tests.support.lost import Deaf
from tests.worker.flow_tasks import Tasks

_CALLS = frozenset({"send", "ack", "release", "dead_letter", "put", "get", "update", "delete"})
_STORE = frozenset({"put", "get", "update", "delete"})


class Walk:
    """A bench whose services lose the answer to one call."""

    def __init__(self, at: int, names: frozenset[str] = _CALLS, *, again: bool) -> None:
        self.app = Bench(default_retry_delay=0.0)
        self.tasks = Tasks(self.app)
        self.calls = iter(range(10**6))
        self._at = at
        self._again = again
        self._names = names

    def deafen(self) -> None:
        app = self.app
        app.broker.driver = Deaf(app.wire, self.calls, self._at, self._names, again=self._again)  # type: ignore[assignment]
        app.results.driver = Deaf(app.store, self.calls, self._at, self._names, again=self._again)  # type: ignore[assignment]

    def work(self) -> list[Settlement]:
        """Do as a worker does, which tries again what has failed; what was settled."""
        app, done = self.app, list[Settlement]()
        while app.left():
            if not (deliveries := app.receive(1)):
                app.lose_leases()
                continue
            waiting = [(deliveries[0], app.settle(deliveries[0]))]
            for _ in range(3):
                batch = commit(waiting, app.broker, app.results, app.workflows.joins)
                done += [settlement for _, settlement in batch.ready]
                while refused := dispose(batch.ready, app.broker):
                    assert refused[0].code in (Code.UNREACHABLE, Code.LEASE_LOST)
                    if refused[0].code is Code.LEASE_LOST:
                        break
                waiting = batch.failed
                if not waiting:
                    break
            assert not waiting, batch.error
            assert len(done) < 100, "it never ends"
        app.broker.driver, app.results.driver = app.wire, app.store
        return done

    @property
    def is_over(self) -> bool:
        """True when there were fewer calls than the one whose answer was to be lost."""
        return next(self.calls) <= self._at


def generated(t: Tasks) -> Any:
    return chord(group(t.same.s(n) for n in range(1, 4)), t.total.s())


WORKFLOWS: dict[str, tuple[Callable[[Tasks], Any], Any]] = {
    "chord": (lambda t: chord([t.add.s(1, 2), t.add.s(3, 4), t.same.s(5)], t.total.s()), 15),
    "chord in a chain": (
        lambda t: t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)) | t.total.s() | t.add.s(1),
        14,
    ),
    "chord of a generator": (generated, 6),
    "chord that grows": (lambda t: chord([t.more.s(), t.same.s(5)], t.total.s()), 30),
    "chord that fails": (
        lambda t: chord([t.fail.s(), t.same.s(1)], t.total.s().link_error(t.told.s())),
        None,
    ),
}


def check(walk: Walk, result: Any, value: Any) -> None:
    if value is not None:
        assert result.get(timeout=0) == value
        return
    with pytest.raises(ChordError):
        result.get(timeout=0)
    assert [run[0] for run in walk.tasks.runs if run[0] == "told"] != []


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_call_that_the_sdk_makes_again_since_its_answer_was_lost_changes_nothing(
    workflow: str,
) -> None:
    make, value = WORKFLOWS[workflow]
    for at in range(1000):
        walk = Walk(at, _STORE, again=True)
        with walk.app:
            walk.deafen()
            result = make(walk.tasks).delay()
            done = walk.work()
            check(walk, result, value)
            assert [each for each in done if each.action is Action.RELEASE] == []
            if walk.is_over:
                assert at > 5
                return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("workflow", [name for name in WORKFLOWS if "grows" not in name])
def test_a_lost_answer_that_a_worker_is_told_of_makes_it_try_again_at_once(workflow: str) -> None:
    make, value = WORKFLOWS[workflow]
    for at in range(1000):
        walk = Walk(at, again=False)
        with walk.app:
            result = make(walk.tasks).delay()
            walk.deafen()
            done = walk.work()
            check(walk, result, value)
            # Nothing waits for the end of a claim.
            assert [each for each in done if each.action is Action.RELEASE] == [], at
            if walk.is_over:
                assert at > 5
                return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("again", [True, False], ids=["made again", "told"])
def test_a_body_that_can_never_be_sent_fails_whichever_answer_is_lost(again: bool) -> None:
    for at in range(1000):
        walk = Walk(at, _STORE, again=again)
        with walk.app as app:
            result = chord([walk.tasks.same.s(1)], walk.tasks.total.s()).delay()
            app.wire.refuse = lambda message: Code.INVALID if b"total" in message.body else None
            walk.deafen()
            walk.work()
            with pytest.raises(ChordError, match="cannot be started"):
                result.get(timeout=0)
            if walk.is_over:
                assert at > 5
                return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("again", [True, False], ids=["made again", "told"])
def test_a_chord_with_half_a_header_fails_whichever_answer_is_lost(again: bool) -> None:
    for at in range(1000):
        walk = Walk(at, _STORE, again=again)
        with walk.app as app:
            t = walk.tasks
            result = chord([t.same.s(1), t.same.s(2)], t.total.s().link_error(t.told.s())).delay()
            (join,) = {part["slot"].partition("@")[2] for part in app.sent()}
            app.results.delete([shard_key(join, 0)])
            walk.deafen()
            walk.work()
            with pytest.raises(ChordError, match="is not in the store"):
                result.get(timeout=0)
            assert [run[0] for run in t.runs].count("told") in ((1, 2) if at else (1,))
            if walk.is_over:
                assert at > 5
                return
    raise AssertionError("it never ended")
