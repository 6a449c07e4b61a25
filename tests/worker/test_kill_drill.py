"""Workers killed at random by the hundred: every call has its result, and none living repeats."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress

import psutil
import pytest

from cloudq import State, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker import drill_tasks
from tests.worker.harness import Place, Worker, until

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
SEED = int(os.environ.get("CLOUDQ_DRILL_SEED", "16"))
KILLS, SECONDS = (100, 0.04) if FULL else (4, 0.02)
# No lease ends where its worker lives, so that a busy machine may take its time.
WORKER = ("--processes", "2", "--threads", "8", "--lease", "20" if FULL else "5")
WORKERS = 2
VICTIMS = ("parent", "parent", "child", "child", "server")
LINE = len(f"{0:>7} {0:>9}\n")
# The stand-in for SQS answers one request at a time.
CASES = [
    ("sqlite", 1, 100_000),
    ("sqlite", 100, 100_000),
    ("sqs", 1, 3_000),
    ("sqs", 100, 30_000),
]
SHORT = [("sqlite", 1, 600), ("sqs", 100, 600)]


class Herd:
    """Two workers, of which one is killed after the other, each replaced at once."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self._place = place
        self._dice = dice
        self._workers: list[Worker] = [place.start(*WORKER, ready=False) for _ in range(WORKERS)]
        self.dead: set[str] = set()  # process ids
        self.kills: Counter[str] = Counter()

    def done(self) -> int:
        """Tell how many calls have run."""
        return self._place.ledger.stat().st_size // LINE if self._place.ledger.exists() else 0

    def kill_one(self) -> None:
        """Kill a supervisor, a process that runs calls, or the one that these are forked from."""
        at = self._dice.randrange(WORKERS)
        worker, what = self._workers[at], self._dice.choice(VICTIMS)
        if self._dice.random() < 0.8:  # else it may be on its way up
            until(worker.is_up, what=f"it is up: {worker.log()[-2000:]}")
        children = worker.children()
        server = worker.fork_server()
        if what == "child" and children:
            self._mourn([victim := self._dice.choice(children)])
            with suppress(psutil.NoSuchProcess):  # it had one call, and has left
                victim.kill()
        elif what == "server" and server is not None:
            self._mourn(children)
            server.kill()
        else:
            what = "parent"
            self._mourn(children)
            worker.kill()
            self._mourn_all_of(worker)
            self._workers[at] = self._place.start(*WORKER, ready=False)
        self.kills[what] += 1

    def _mourn(self, children: Sequence[psutil.Process]) -> None:
        self.dead.update(str(child.pid) for child in children)

    def _mourn_all_of(self, worker: Worker) -> None:
        """Count all that a killed supervisor ever had: it has told nobody of their last ends."""
        self.dead.update(re.findall(r"child (\d+) is ready", worker.log()))

    def stop(self) -> None:
        """Stop the last workers, as an operator does."""
        for worker in self._workers:
            until(worker.is_up, what="the last worker is up")
            assert worker.stop() == 0, worker.log()[-2000:]


def repeated(place: Place, count: int, dead: set[str]) -> tuple[int, int]:
    """Check the ledger; how many runs were repeats, and how many runs the dead had had.

    A call may run again if each earlier run of it was in a process that was killed, or whose
    supervisor was. Process ids come again, on few machines so soon.
    """
    runs: dict[int, list[str]] = defaultdict(list)
    for line in place.entries():
        number, pid = line.split()
        runs[int(number)].append(pid)
    assert set(runs) == set(range(count)), "lost calls"
    living = {n: [pid for pid in ran if pid not in dead] for n, ran in runs.items()}
    twice = {n: runs[n] for n, pids in living.items() if len(pids) > 1}
    assert not twice, f"run twice by the living: {twice}"
    ran = sum(map(len, runs.values()))
    return ran - count, ran - sum(map(len, living.values()))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("where", "bundle", "count"), CASES if FULL else SHORT)
def test_nothing_is_lost_and_only_what_ran_in_the_dead_is_repeated(
    request: pytest.FixtureRequest, where: str, bundle: int, count: int
) -> None:
    place: Place = request.getfixturevalue(f"{where}_place")
    began = time.monotonic()
    task = place.app.task(name="drill_tasks.tally")(drill_tasks.tally.function)
    results = place.app.publish([task.prepare(n, SECONDS) for n in range(count)], bundle=bundle)
    sent_after = time.monotonic() - began
    herd = Herd(place, random.Random(SEED))
    for left in range(KILLS, 0, -1):
        done = herd.done()
        reached = done + max(1, (count - done) // (left + 1))
        until(
            lambda reached=reached: herd.done() >= min(reached, count),
            what=f"{reached} done",
            within=4 * PATIENCE,
        )
        herd.kill_one()
    records = wait_for(results, timeout=20 * PATIENCE)
    took = time.monotonic() - began
    assert Counter(record.state for record in records) == {State.SUCCESS: count}
    assert [result.get() for result in results] == [n * 2 for n in range(count)]
    herd.stop()
    assert place.app.broker.admin.peek_dead(place.queue, count=10) == []
    again, ran = repeated(place, count, herd.dead)
    print(
        f"\n{where}, seed {SEED}: {count} calls in bundles of {bundle}, {KILLS} kills "
        f"{dict(herd.kills)} in {took:.0f} s ({sent_after:.1f} s to send): 0 lost, 0 wrong, "
        f"{again} repeated of {ran} that ran in the {len(herd.dead)} dead processes"
    )
