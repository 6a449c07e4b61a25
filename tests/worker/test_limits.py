"""Limits on tasks hold while workers are killed."""

from __future__ import annotations

import os
import time

import pytest

from cloudq import State, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker.harness import Place, until

FULL = os.environ.get("CLOUDQ_DRILL") == "full"


def test_a_worker_of_two_processes_keeps_one_rate(sqlite_place: Place) -> None:
    sqlite_place.start("--processes", "2", "--threads", "4")
    started = time.time()
    results = [sqlite_place.app.send_task("drill_tasks.paced", [n]) for n in range(16)]
    wait_for(results, timeout=PATIENCE)
    at = sorted(float(entry.split()[1]) for entry in sqlite_place.entries())
    assert len(at) == 16
    # A burst of four, then four a second; what comes back may start a second early.
    assert at[-1] - started >= (16 - 4) / 4 - 1.1
    assert max(sum(start <= each < start + 1 for each in at) for start in at[8:]) <= 9


@pytest.mark.parametrize("at", ["sqlite", *(["sqs", "pubsub", "servicebus"] if FULL else [])])
def test_one_of_a_key_runs_at_a_time_whichever_worker_it_is(
    request: pytest.FixtureRequest, at: str
) -> None:
    place: Place = request.getfixturevalue(f"{at}_place")
    for _ in range(2):
        place.start("--processes", "1", "--threads", "4", ready=False)
    place.await_workers()
    results = [place.app.send_task("drill_tasks.alone", ["k", 0.1]) for _ in range(5)]
    other = place.app.send_task("drill_tasks.alone", ["other", 0.0])
    wait_for([other, *results], timeout=PATIENCE)
    entries = [entry for entry in place.entries() if entry.endswith(" k")]
    assert entries == ["in k", "out k"] * 5


def test_the_key_of_a_killed_worker_goes_on_to_the_next(sqlite_place: Place) -> None:
    first = sqlite_place.start("--processes", "1", "--threads", "1", "--lease", "2")
    held = sqlite_place.app.send_task("drill_tasks.alone", ["k", 0.0, True])
    until(lambda: "in k" in sqlite_place.entries(), what="it holds the key")
    first.kill()
    sqlite_place.let_go()
    waits = sqlite_place.app.send_task("drill_tasks.alone", ["k", 0.1])
    sqlite_place.start("--processes", "1", "--threads", "4", "--lease", "2")
    wait_for([held, waits], timeout=PATIENCE)
    assert sqlite_place.entries() == ["in k", "in k", "out k", "in k", "out k"]


def test_a_call_stopped_at_its_hard_limit_lets_the_next_in_at_once(sqlite_place: Place) -> None:
    # Its key would be free again with its lease, which outlasts the patience of this test.
    sqlite_place.start("--processes", "1", "--threads", "2", "--lease", "600")
    stopped = sqlite_place.app.send_task("drill_tasks.limited", ["k", 600.0])
    until(lambda: "in k" in sqlite_place.entries(), what="it holds the key")
    waits = sqlite_place.app.send_task("drill_tasks.limited", ["k", 0.0], time_limit=PATIENCE)
    assert waits.get(timeout=PATIENCE) is None
    assert stopped.state is State.FAILURE


def test_a_call_goes_on_from_its_checkpoint_when_its_worker_was_killed(
    sqlite_place: Place,
) -> None:
    first = sqlite_place.start("--processes", "1", "--threads", "1", "--lease", "2")
    result = sqlite_place.app.send_task("drill_tasks.walk", [7, 4])
    until(lambda: "step 3" in sqlite_place.entries(), what="half of it is done")
    first.kill()
    sqlite_place.let_go()
    sqlite_place.start("--processes", "1", "--threads", "1", "--lease", "2")
    assert result.get(timeout=PATIENCE) == 7
    counts = sqlite_place.counts()
    assert counts["start"] == 2
    # A step that was saved, and not noted, is not done again.
    assert sum(counts[f"step {n}"] for n in range(7)) in (6, 7)
    assert max(counts[f"step {n}"] for n in range(7)) == 1
