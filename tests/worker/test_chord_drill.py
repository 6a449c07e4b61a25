"""Chords whose workers are killed: every body runs, and none twice but for a death while it ran."""

from __future__ import annotations

import os
import random
from collections import defaultdict

import pytest

from cloudq import AsyncResult, State, chord, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker import flow_tasks
from tests.worker.harness import Place, until

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
MEMBERS = 10
WORKER = ("--processes", "2", "--threads", "8", "--lease", "3")
KILL = "kill"


def start(place: Place, chords: int, bundle: int) -> list[AsyncResult[list[int]]]:
    square = place.app.task(name="square", bundle=bundle)(flow_tasks.square.function)
    body = place.app.task(name="body", bind=True)(flow_tasks.body.function)
    return [
        chord([square.s(number + n) for n in range(MEMBERS)], body.s(number)).delay()
        for number in range(chords)
    ]


def audit(place: Place, chords: int) -> int:
    """Check the ledger: every body is in it, and again only because of a kill; how many are again.

    A body may be killed between its line in the ledger and its record: it then runs again, as the
    same message. A kill between the sending of a body and the note of it, or on a busy machine a
    lease that ended there, has the body sent twice: it is there twice as a first delivery.
    """
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    kills = 0
    for line in place.entries():
        if line == KILL:
            kills += 1
            continue
        _, number, attempts = line.split()
        runs[int(number)].append((kills, int(attempts)))
    assert set(runs) == set(range(chords)), "lost bodies"
    twice = {
        number: entries
        for number, entries in runs.items()
        if any(len(set(seen)) < len(entries) for seen in zip(*entries, strict=True))
    }
    assert len(twice) <= kills, f"bodies sent twice, or run twice without a kill: {twice}"
    return sum(len(entries) - 1 for entries in runs.values())


@pytest.mark.parametrize("bundle", [1, 20])
@pytest.mark.timeout(1800)
def test_killed_at_random_every_body_runs_once(place: Place, bundle: int) -> None:
    place.tasks = "flow_tasks:app"
    place.environment["CLOUDQ_TASK_DEFAULT_QUEUE"] = place.queue
    chords, kills = (1000, 20) if FULL else (40, 3)
    dice = random.Random(5)
    results = start(place, chords, bundle)
    worker = place.start(*WORKER)
    for number in range(kills):
        reached = chords * number // (kills + 1) + 1
        until(
            lambda reached=reached: len(place.counts()) >= reached,
            what=f"{reached} bodies: {worker.log()[-2000:]}",
        )
        children = worker.children()
        if children and dice.random() < 0.5:
            dice.choice(children).kill()
        else:
            worker.kill()
            worker = place.start(*WORKER, ready=False)
        flow_tasks.note_in(place.ledger, KILL)
    records = wait_for(results, timeout=4 * PATIENCE)
    assert {record.state for record in records} == {State.SUCCESS}
    for number, result in enumerate(results):
        squares = sum((number + n) ** 2 for n in range(MEMBERS))
        assert result.get(timeout=0) == [number, squares, MEMBERS]
    repeated = audit(place, chords)
    print(
        f"{place.broker.split(':')[0]}: {chords} chords of {MEMBERS} in bundles of {bundle}, "
        f"{kills} kills: "
        f"0 bodies lost, {repeated} repeated by a death"
    )
    assert place.app.broker.admin.peek_dead(place.queue, count=10) == []
    # The last kill may have come after the last task: the one that follows is still starting.
    until(worker.is_up, what="the last worker is up")
    assert worker.stop() == 0
