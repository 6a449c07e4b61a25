"""Beats that are killed at random: no run is missed, and none is doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from cloudq.testing.waiting import PATIENCE
from tests.worker.harness import Place, until

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
LEASE = 3.0 if FULL else 2.0
PERIOD = 0.5


class BeatProcess:
    """One `cloudq beat`."""

    def __init__(self, place: Place, name: str) -> None:
        self.name = name
        self.up_at = self.ended_at = float("inf")
        self.log = place.folder / f"{name}.log"
        command = [sys.executable, "-m", "cloudq", "beat", "-A", place.tasks, "-n", name]
        command += ["--broker", place.broker, "--backend", place.backend, "--lease", str(LEASE)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **place.environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._watch = threading.Thread(target=self._note_up, daemon=True)
        self._watch.start()

    def _note_up(self) -> None:
        while self.process.poll() is None:
            if self.up():
                self.up_at = time.time()
                return
            time.sleep(0.02)

    def up(self) -> bool:
        return any(word in self.log.read_text() for word in ("stands by", f"{self.name} leads"))

    def leads(self) -> bool:
        return f"{self.name} leads" in self.log.read_text()

    def there(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.up_at < float("inf")

    def end(self) -> None:
        if self.process.poll() is None:
            self.ended_at = time.time()
            self.process.kill()
        self.process.wait()
        self._watch.join()


def runs(place: Place) -> list[tuple[float, float]]:
    """Each line of the ledger, but one being written: when the run was due, and when it ran."""
    lines = [line.split() for line in place.entries() if len(line.split()) == 2]
    return [(datetime.fromisoformat(slot).timestamp(), float(at)) for slot, at in lines]


def calls(place: Place, last: float) -> Counter[float]:
    """The number of lines of each run up to the last one that is asked for."""
    return Counter(due for due, _ in runs(place) if due <= last)


def gaps(found: list[tuple[float, float]], last: float) -> set[float]:
    """The distances of the runs up to the last one that is asked for, in seconds."""
    dues = sorted({due for due, _ in found if due <= last})
    return {round(after - before, 3) for before, after in pairwise(dues)}


def latest(due: float, beats: list[BeatProcess]) -> float:
    """When a run is sent at the latest, by the guide: a lease after it is due, or after a beat that
    goes on was up to look; and where one dies meanwhile, which may have led, a lease after that."""
    deaths = sorted(beat.ended_at for beat in beats)
    found: list[float] = []
    for beat in beats:
        start = max(due, beat.up_at)
        for death in deaths:
            if start < death <= start + LEASE and death < beat.ended_at:
                start = death
        if start + LEASE < beat.ended_at:
            found.append(start + LEASE)
    return min(found, default=float("inf"))


def allowance(known: list[tuple[float, float]], beats: list[BeatProcess]) -> float:
    """The time that a run may take beyond its lease: a second lease, and the longest delay of a
    run that no death held up. The latter covers the requests of the beat that takes over, the
    queue, and the worker's share of a busy machine."""
    deaths = [beat.ended_at for beat in beats]
    calm = [ran - due for due, ran in known if not any(-1 < due - at < 2 * LEASE for at in deaths)]
    return LEASE + max(calm, default=0.0)


def told(known: list[tuple[float, float]], beats: list[BeatProcess]) -> str:
    """Describe the events around the latest run, in seconds from when it was due."""
    due, ran = max(known, key=lambda run: run[1] - latest(run[0], beats))
    lives = [(b.name, round(b.up_at - due, 2), round(b.ended_at - due, 2)) for b in beats]
    near = [life for life in lives if life[2] > -2 * LEASE and life[1] < 3 * LEASE]
    return f"ran {ran - due:.2f}; beats, from when until when: {near}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bundle", [1, 20])
def test_one_of_two_is_killed_and_no_run_is_missed_or_doubled(place: Place, bundle: int) -> None:
    kills = 50 if FULL else 2 if bundle == 1 else 1
    place.environment["DRILL_BUNDLE"] = str(bundle)
    dice = random.Random(11)
    place.start("--processes", "1", "--threads", "8", "--lease", "30")
    beats = [BeatProcess(place, f"beat-{number}") for number in range(2)]
    every = list(beats)
    try:
        until(lambda: all(beat.there() for beat in beats), what="two beats")
        for _ in range(kills):
            until(lambda: len(place.entries()) > 0, what="a first run")
            time.sleep(dice.uniform(0.3, 1.5))  # a moment that no beat expects
            leaders = [beat for beat in beats if beat.leads()]
            victim = dice.choice(leaders or beats) if dice.random() < 0.7 else dice.choice(beats)
            before = len(place.entries())
            victim.end()
            fresh = BeatProcess(place, f"beat-{len(every)}")
            every.append(fresh)
            beats[beats.index(victim)] = fresh
            until(lambda n=before: len(place.entries()) > n, what="runs go on")
            until(lambda: all(beat.there() for beat in beats), what="a new beat")
        end = time.time()
        until(lambda: max(due for due, _ in runs(place)) > end, what="the last run")
        # A worker runs what it gets side by side, so an earlier run may be written after this one.
        last = max(due for due, _ in runs(place))
        until(lambda: gaps(runs(place), last) == {PERIOD}, what="each run before it")
        until(lambda: min(calls(place, last).values()) >= bundle, what="each call of these runs")
        found = runs(place)
    finally:
        for beat in beats:
            beat.end()
    dues = calls(place, last)
    assert set(dues.values()) == {bundle}, "a run was doubled"
    # Those due when the drill ended are sent within a lease from then.
    known = [(due, ran) for due, ran in found if due + LEASE < end]
    slack = allowance(known, every)
    # In the short form the drill may have ended before any.
    spare = min((latest(due, every) + slack - ran for due, ran in known), default=LEASE)
    print(
        f"{place.broker.split(':')[0]}: {kills} kills, {len(dues)} runs of {bundle}, "
        "0 missed, 0 doubled; "
        f"lease {LEASE:g} s: the latest ran {max(ran - due for due, ran in found):.2f} s after it "
        f"was due, and at least {spare:.2f} s before lease + {slack:.2f} s with a beat there"
    )
    if known:
        print(told(known, every))
    assert spare > 0, ("the takeover took longer than the lease", told(known, every))


def test_a_beat_that_is_stopped_leaves_the_lead(sqlite_place: Place) -> None:
    first = BeatProcess(sqlite_place, "first")
    try:
        until(first.leads, what="it leads")
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(PATIENCE) == 0
        assert sqlite_place.app.schedules.states.leader() is None
        assert "stopped" in Path(first.log).read_text()
    finally:
        first.end()


def test_a_worker_may_have_the_beat_in_it(sqlite_place: Place) -> None:
    worker = sqlite_place.start("--processes", "1", "--threads", "4", "--beat", "-n", "both")
    until(lambda: len(sqlite_place.entries()) >= 3, what=f"runs: {worker.log()}")
    assert sqlite_place.app.schedules.states.leader() == "both"
    assert worker.stop() == 0
    assert sqlite_place.app.schedules.states.leader() is None
