"""Bundles in a worker: one call's death, limit or retry is its own, and each is known by itself."""

from __future__ import annotations

import pytest

from cloudq import State, TimeLimitExceeded, WorkerLost, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker import drill_tasks
from tests.worker.harness import Place, until


def test_the_end_of_one_call_is_no_neighbour_s(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sqlite_place
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", "1")
    app = place.app

    def named(name: str):  # type: ignore[no-untyped-def]
        return app.task(name=f"drill_tasks.{name}")(getattr(drill_tasks, name).function)

    work, end = named("work"), named("end")
    spin = app.task(name="drill_tasks.spin", time_limit=1.5)(drill_tasks.spin.function)
    flaky = app.task(name="drill_tasks.flaky", bind=True)(drill_tasks.flaky.function)
    calls = [work.prepare(n, 0.01) for n in range(6)]
    calls[2:2] = [end.prepare("poison", "exit"), spin.prepare("spin"), flaky.prepare(9, 2)]
    results = app.publish(calls, bundle=len(calls))
    worker = place.start("-c", "2", "-t", "3", "--lease", "5", "--max-tasks-per-child", "4")
    records = wait_for(results, timeout=PATIENCE)
    states = [record.state for record in records]
    assert states[:2] + states[4:] == [State.SUCCESS] * 7
    assert isinstance(results[2].get(timeout=0, propagate=False), WorkerLost)
    assert isinstance(results[3].get(timeout=0, propagate=False), TimeLimitExceeded)
    assert results[4].get(timeout=0) == 2
    until(lambda: len(app.broker.admin.peek_dead(place.queue, count=9)) == 1, what="a dead letter")
    until(lambda: app.broker.admin.stats(place.queue).leased == 0, what="the message is settled")
    assert worker.stop() == 0


def test_commands_know_the_calls_of_a_bundle_one_by_one(sqlite_place: Place) -> None:
    place = sqlite_place
    app = place.app
    hold = app.task(name="drill_tasks.hold")(drill_tasks.hold.function)
    results = app.publish([hold.prepare(f"h{n}") for n in range(5)], bundle=5)
    ids = [result.id for result in results]
    worker = place.start("-c", "1", "-t", "2", "--lease", "5")
    until(lambda: len(place.entries()) == 2, what="two have begun")
    inspect = app.control.inspect(timeout=PATIENCE)

    def told(what: str) -> set[str]:
        replies = getattr(inspect, what)() or {}
        return {each["id"] for reply in replies.values() for each in reply}

    begun = {ids[int(entry[-1])] for entry in place.entries()}
    until(lambda: told("active") == begun, what="the active ones")
    assert told("reserved") == set(ids) - begun
    waiting = sorted(set(ids) - begun)
    app.control.revoke(waiting[0], terminate=True)
    running = sorted(begun)[0]
    app.control.revoke(running, terminate=True)
    until(lambda: app.AsyncResult(running).state is State.REVOKED, what="it is terminated")
    place.let_go()
    wait_for(results, timeout=PATIENCE)
    states = {result.id: app.AsyncResult(result.id).state for result in results}
    revoked = {running, waiting[0]}
    assert states == {id: State.REVOKED if id in revoked else State.SUCCESS for id in ids}
    assert worker.stop() == 0
