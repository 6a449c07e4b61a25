"""Bundles of plain calls, which a worker holds as one: each call is still one of its own."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import pytest

from cloudq import AsyncResult, State, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker import drill_tasks
from tests.worker.harness import Place, until


def published(place: Place, name: str, *calls: tuple[object, ...]) -> list[AsyncResult[object]]:
    """Publish calls of a drill's task as one bundle."""
    task = place.app.task(name=f"drill_tasks.{name}")(getattr(drill_tasks, name).function)
    return place.app.publish([task.prepare(*args) for args in calls], bundle=len(calls))


def states(place: Place, results: list[AsyncResult[object]]) -> list[str]:
    place.app.backend.bundles.seen.forget()
    return [str(place.app.AsyncResult(result.id).state) for result in results]


def test_ends_are_those_of_single_calls(sqlite_place: Place) -> None:
    place = sqlite_place
    results = published(place, "work", *((number, 0.0) for number in range(40)))
    place.start("-c", "1", "-t", "16", "--lease", "5")
    [alone] = published(place, "work", (3, 0.0))
    records = wait_for([*results, alone], timeout=PATIENCE)
    assert [json.loads(str(record.value)) for record in records[:-1]] == [2 * n for n in range(40)]
    *bundled, single = records
    for record in bundled:
        assert (record.state, record.task, record.queue) == (
            State.SUCCESS,
            single.task,
            place.queue,
        )
        assert (record.worker, record.fence, record.retries) == (single.worker, 1, 0)
        assert record.started_at is not None
        assert record.finished_at is not None
        assert record.started_at <= record.finished_at
    assert place.counts() == Counter(map(str, [*range(40), 3]))
    until(lambda: place.app.broker.admin.stats(place.queue).leased == 0, what="it is settled")


def test_ends_can_be_read_while_a_neighbour_runs_on(sqlite_place: Place) -> None:
    place = sqlite_place
    results = published(place, "nap", ("long", 30.0), *((f"n{n}", 0.0) for n in range(9)))
    worker = place.start("-c", "1", "-t", "4", "--lease", "5")
    wait_for(results[1:], timeout=PATIENCE)
    assert states(place, results) == ["PENDING"] + ["SUCCESS"] * 9
    worker.kill()


@pytest.mark.parametrize("stop", ["warm", "cold"])
def test_a_stopped_worker_gives_back_what_has_not_ended(sqlite_place: Place, stop: str) -> None:
    place = sqlite_place
    calls = [("q0",), ("q1",), *((f"h{n}",) for n in range(8))]
    results = published(place, "hold", *calls)
    worker = place.start("-c", "1", "-t", "3", "--lease", "60")
    until(lambda: len(place.entries()) == 3, what="as many run as there are threads")
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in worker.log(), what="it stops")
    if stop == "cold":
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(PATIENCE) == 1
        place.let_go()
    else:
        place.let_go()
        assert worker.process.wait(PATIENCE) == 0
        ended = sum(entry.startswith("end") for entry in place.entries())
        assert states(place, results).count("SUCCESS") == ended >= 3
    place.start("-c", "1", "-t", "3", "--lease", "5")
    wait_for(results, timeout=PATIENCE)
    assert states(place, results) == ["SUCCESS"] * 10
    runs = Counter(entry for entry in place.entries() if entry.startswith("end"))
    assert runs == Counter(f"end {name}" for (name,) in calls)
    begun = Counter(entry for entry in place.entries() if entry.startswith("start"))
    assert sum(begun.values()) == (13 if stop == "cold" else 10)


def test_a_call_that_ends_its_process_is_found_among_its_neighbours(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sqlite_place
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", "1")
    results = published(place, "maybe_die", *((number, number == 5) for number in range(12)))
    place.start("-c", "1", "-t", "4", "--lease", "5")
    wait_for(results, timeout=PATIENCE)
    assert states(place, results) == ["SUCCESS"] * 5 + ["FAILURE"] + ["SUCCESS"] * 6
    until(lambda: len(place.app.broker.admin.peek_dead(place.queue, count=9)) == 1, what="a letter")


def test_failures_and_retries_are_those_of_their_calls_alone(sqlite_place: Place) -> None:
    place = sqlite_place
    flaky = place.app.task(name="drill_tasks.flaky", bind=True)(drill_tasks.flaky.function)
    failures = [0, 2, 0, 9, 1, 0]
    results = place.app.publish(
        [flaky.prepare(n, times) for n, times in enumerate(failures)], bundle=len(failures)
    )
    place.start("-c", "1", "-t", "4", "--lease", "5")
    records = wait_for(results, timeout=PATIENCE)
    assert [record.state == State.SUCCESS for record in records] == [n < 9 for n in failures]
    assert [record.retries for record in records] == [0, 2, 0, 5, 1, 0]
    assert place.counts() == Counter(
        {str(n): min(times, 5) + 1 for n, times in enumerate(failures)}
    )


def test_the_worker_tells_of_calls_that_wait_and_run(sqlite_place: Place) -> None:
    place = sqlite_place
    place.environment["CLOUDQ_WORKER_HEARTBEAT"] = "0.2"
    published(place, "hold", *((f"h{n}",) for n in range(10)))
    place.start("-c", "1", "-t", "4", "--lease", "5")
    until(lambda: len(place.entries()) == 4, what="as many run as there are threads")

    def told() -> tuple[int, int]:
        hearts = place.app.control.heartbeats.alive()
        return (hearts[0].running, hearts[0].waiting) if hearts else (0, 0)

    until(lambda: told() == (4, 6), what="the heartbeat counts them")
    place.let_go()
    until(lambda: told() == (0, 0), what="none is left")
    assert os.path.exists(place.ledger)
