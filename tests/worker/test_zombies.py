"""Workers that are stopped for longer than their leases, and come back: what they say is late."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress

import pytest

from cloudq import AsyncResult
from cloudq.results.record import Record
from cloudq.testing.waiting import PATIENCE
from tests.worker import drill_tasks
from tests.worker.harness import Place, Worker, until

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
THREADS = 2
WORKER = ("--processes", "1", "--threads", str(THREADS), "--lease", "3")
EVERY = [
    (where, stopped, first, bundle)
    for where in ("sqlite", "sqs")
    for stopped in ("parent", "both")
    for first in ("zombie", "other")
    for bundle in (1, THREADS)
]
SHORT = [("sqlite", "parent", "zombie", 1), ("sqs", "both", "other", THREADS)]


def publish(place: Place, name: str, bundle: int = 1) -> list[AsyncResult[int]]:
    hold = place.app.task(name="drill_tasks.hold_here")(drill_tasks.hold_here.function)
    return place.app.publish([hold.prepare(f"{name}{n}") for n in range(THREADS)], bundle=bundle)


def start(place: Place) -> tuple[Worker, int]:
    """Start a worker; its child's process id too."""
    worker = place.start(*WORKER)
    return worker, worker.children()[0].pid


def await_runs(place: Place, name: str, pid: int) -> None:
    expected = {f"{name}{n} {pid}" for n in range(THREADS)}
    until(
        lambda: expected <= set(place.entries()), what=f"{name} runs in {pid}", within=2 * PATIENCE
    )


def stop(place: Place, pids: Sequence[int]) -> None:
    """Stop processes, at a moment at which none of them has the SQLite file locked.

    One that has keeps all others out until it goes on, which is SQLite's way.
    """
    while True:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        if not place.broker.startswith("sqlite:") or is_free(place):
            return
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def is_free(place: Place) -> bool:
    """Tell whether the SQLite file can be written."""
    file = place.broker.removeprefix("sqlite:///").partition("?")[0]
    with closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def records(place: Place, results: Sequence[AsyncResult[int]]) -> list[Record | None]:
    """The records of calls; of one in a bundle there is none before its end."""
    assert place.app.backend is not None
    found = place.app.backend.records([result.id for result in results])
    return [found.get(result.id) for result in results]


@pytest.mark.parametrize(("where", "who", "first", "bundle"), EVERY if FULL else SHORT)
@pytest.mark.timeout(600)
def test_a_zombie_changes_nothing_and_works_on(
    request: pytest.FixtureRequest, where: str, who: str, first: str, bundle: int
) -> None:
    """One is stopped as it runs calls, another takes these over; both end them, one first."""
    place: Place = request.getfixturevalue(f"{where}_place")
    zombie, pid = start(place)
    results = publish(place, "a", bundle)
    await_runs(place, "a", pid)
    other, other_pid = start(place)
    stopped = [zombie.process.pid, pid][: 1 if who == "parent" else 2]
    try:
        stop(place, stopped)
        await_runs(place, "a", other_pid)  # past the end of the leases
        if first == "other":
            place.let_go(other_pid)
            assert [result.get(timeout=PATIENCE) for result in results] == [other_pid] * THREADS
        before = records(place, results)
        place.let_go(pid)
    finally:
        for each in stopped:
            os.kill(each, signal.SIGCONT)
    # The other has no slot free for all of these: the zombie is through with the first, and works.
    places = range(THREADS if first == "zombie" else 2 * THREADS)
    later = [place.app.send_task("drill_tasks.hold", [f"b{n}"]) for n in places]
    until(lambda: {f"start b{n}" for n in places} <= set(place.entries()), what="it works on")
    assert records(place, results) == before, "what a zombie says is late"
    if first == "zombie":
        assert not any(record is not None and record.terminal for record in before)
        leased = place.app.broker.admin.stats(place.queue).leased
        assert leased == len(later) + THREADS // bundle, "it acknowledged what is another's"
        place.let_go(other_pid)
        assert [result.get(timeout=PATIENCE) for result in results] == [other_pid] * THREADS
        before = records(place, results)
    place.let_go()
    assert [result.get(timeout=PATIENCE) for result in later] == [f"b{n}" for n in places]
    until(lambda: place.app.broker.admin.stats(place.queue).leased == 0, what="all is settled")
    assert records(place, results) == before
    assert place.app.broker.admin.stats(place.queue).ready == 0
    assert not place.app.broker.admin.peek_dead(place.queue, count=5)
    assert set(place.counts().values()) == {1}, "each ran once in the zombie, once in the other"
    for worker in (zombie, other):
        assert worker.stop() == 0
        assert "Traceback" not in worker.log()
    print(f"\n{where}: {who} stopped, {first} ends first, bundles of {bundle}: no record changed")


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
@pytest.mark.parametrize("where", ["sqlite", "sqs"])
@pytest.mark.timeout(600)
def test_a_child_alone_that_is_stopped_is_as_a_dead_one(
    request: pytest.FixtureRequest, where: str
) -> None:
    """Its supervisor lives, so no lease ends; it has the calls run by another child."""
    place: Place = request.getfixturevalue(f"{where}_place")
    zombie, pid = start(place)
    results = publish(place, "a")
    await_runs(place, "a", pid)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: len(place.entries()) == 2 * THREADS, what="another runs them")
    assert "was stopped by a signal" in zombie.log()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    again = {int(entry.split()[1]) for entry in place.entries()} - {pid}
    for each in (pid, *again):
        place.let_go(each)
    assert {result.get(timeout=PATIENCE) for result in results} == again
    assert zombie.stop() == 0
    print(f"\n{where}: child stopped: {len(results)} calls ran in others, none of it after SIGCONT")
