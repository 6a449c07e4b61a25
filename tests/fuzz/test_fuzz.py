"""Hostile messages in every form: each ends by itself, and none harms its neighbours."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from tests.fuzz.bodies import Bodies
from tests.fuzz.drive import Drive

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
# The number of bodies and the seed can be given; tests see no settings of ours, so here.
COUNT = int(os.environ.get("CLOUDQ_FUZZ", "1_000_000" if FULL else "3_600"))
SEED = int(os.environ.get("CLOUDQ_FUZZ_SEED", "12"))
_AT_A_TIME = 1_800
_MEMORY = 300.0  # MB that the process may grow by, whatever the number of bodies


@pytest.mark.drill
@pytest.mark.timeout(0 if FULL else 900)
def test_no_body_stops_a_worker_or_its_neighbours() -> None:
    logging.disable(logging.CRITICAL)
    bodies, drive = Bodies(seed=SEED), Drive()
    first: float | None = None
    try:
        while drive.found.bodies < COUNT:
            drive.run([bodies.next() for _ in range(_AT_A_TIME)])
            first = first or drive.found.memory
            assert not drive.found.wrong, _shown(drive)
    finally:
        logging.disable(logging.NOTSET)
    print(drive.found.bodies, drive.found.ends, drive.found.slowest, drive.found.memory)
    assert drive.found.memory - first < _MEMORY
    assert {"SUCCESS", "FAILURE", "RETRY", "dead-letter"} <= set(drive.found.ends)
    assert drive.found.bundled, "no bundle was taken apart"
    alarms = [thread for thread in threading.enumerate() if thread.name == "alarms"]
    assert alarms, "no time limit was ever set"


def _shown(drive: Drive) -> str:
    wrong = drive.found.wrong
    lines = [f"{what}: {body[:2000]!r}" for what, body in wrong[:5]]
    return "\n".join([f"{len(wrong)} of {drive.found.bodies} bodies", *lines])
