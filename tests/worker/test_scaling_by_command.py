"""`control autoscale`, told to workers that were started without `--autoscale`."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq import wait_for
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from tests.worker.harness import Place, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_HEARTBEAT", "0.5")
    monkeypatch.setenv("CLOUDQ_WORKER_AUTOSCALE_IDLE", "1")


def told(place: Place, most: int, fewest: int) -> Any:
    """Return the reply of the one worker."""
    eventually(place.app.control.heartbeats.alive)
    [replies] = place.app.control.autoscale(most, fewest, reply=True, timeout=PATIENCE) or []
    [reply] = replies.values()
    return reply


def test_a_worker_of_fixed_size_scales_from_then_on(sqlite_place: Place) -> None:
    place = sqlite_place
    worker = place.start("--processes", "1", "--threads", "1")
    assert "the most first" in told(place, 1, 2)["error"]
    assert told(place, 3, 1) == {"ok": "autoscale now max=3 min=1"}
    naps = [place.app.send_task("drill_tasks.hold", [str(n)]) for n in range(6)]
    until(lambda: len(worker.children()) == 3, what="three processes")
    place.let_go()
    wait_for(naps, timeout=PATIENCE)
    until(lambda: len(worker.children()) == 1, what="one process again")
    assert told(place, 2, 2) == {"ok": "autoscale now max=2 min=2"}
    until(lambda: len(worker.children()) == 2, what="the fewest at once")
    assert place.app.send_task("drill_tasks.nap", ["last", 0.0]).get(timeout=PATIENCE) == "last"
    assert worker.stop() == 0


def test_a_worker_of_threads_cannot(sqlite_place: Place) -> None:
    sqlite_place.start("--pool", "threads", "--threads", "2")
    assert "--pool threads has one" in told(sqlite_place, 3, 1)["error"]
