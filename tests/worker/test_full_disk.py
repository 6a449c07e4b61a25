"""Disks that are full: callers are told so, workers wait and go on, nothing is lost or torn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cloudq import AsyncResult, CloudQ, wait_for
from cloudq.errors import PayloadError, PublishError
from cloudq.testing.waiting import PATIENCE, eventually
from tests.support.disks import Disk, small_disk
from tests.worker.harness import Place, Worker, until
from tests.worker.payload_tasks import digest
from tests.worker.test_payloads import payloads_at

pytestmark = pytest.mark.drill

DRILL = os.environ.get("CLOUDQ_DRILL") == "full"
ONE = ("--processes", "1", "--threads", "2")
FULL = "its disk is full: free some space"


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    # Too small for a log that is made long at once, in which there would be room for long.
    with small_disk(tmp_path / "disk", megabytes=getattr(request, "param", 3)) as disk:
        yield disk


@pytest.fixture(params=["full", "normal"] if DRILL else ["full"])
def place(request: pytest.FixtureRequest, disk: Disk, tmp_path: Path) -> Iterator[Place]:
    """A place whose file is on the small disk, and whose ledger is not."""
    url = f"sqlite:///{disk.folder}/cloudq.db?synchronous={request.param}"
    app = CloudQ("drills", broker=url, backend=url)
    with closing(Place(app=app, broker=url, backend=url, queue="default", folder=tmp_path)) as at:
        yield at


def is_idle(worker: Worker) -> bool:
    """Tell whether a worker that has nothing to do but to wait uses little of a processor."""
    began, used = time.monotonic(), worker.cpu()
    time.sleep(1)
    return worker.cpu() - used < 0.3 * (time.monotonic() - began)


def send(place: Place, name: str, size: int = 5) -> AsyncResult[int]:
    return place.app.send_task("drill_tasks.weigh", [name, "x" * size])


def fill_by_calls(place: Place) -> list[AsyncResult[int]]:
    sent: list[AsyncResult[int]] = []
    with suppress(PublishError):
        while True:
            sent.append(send(place, f"{len(sent)}", 20_000))
    return sent


@pytest.mark.parametrize("disk", [16], indirect=True)
def test_filled_by_callers(disk: Disk, place: Place) -> None:
    """All that was sent is there, nothing that was refused; once there is room all goes on."""
    disk.take(14 << 20)
    sent = fill_by_calls(place)
    assert len(sent) > 10
    with pytest.raises(PublishError, match=FULL):
        send(place, "refused", 20_000)
    worker = place.start(*ONE, ready=False)
    disk.free()
    wait_for(sent, timeout=2 * PATIENCE)
    sent.append(send(place, f"{len(sent)}", 20_000))
    assert [result.get(timeout=PATIENCE) for result in sent] == [20_000] * len(sent)
    assert place.counts() == {f"{n}": 1 for n in range(len(sent))}
    assert worker.stop() == 0


def test_full_before_a_claim(disk: Disk, place: Place) -> None:
    """A worker that may lease nothing waits, tells why, and goes on when there is room."""
    results = [send(place, f"{n}") for n in range(5)]
    disk.fill()
    worker = place.start(*ONE, ready=False)
    until(lambda: FULL in worker.log(), what=f"it tells why: {worker.log()}")
    assert is_idle(worker)
    assert not place.entries()
    disk.free()
    assert [result.get(timeout=PATIENCE) for result in results] == [5] * 5
    assert place.counts() == {f"{n}": 1 for n in range(5)}
    assert "Traceback" not in worker.log()
    assert worker.stop() == 0


def test_full_before_a_result_is_recorded(disk: Disk, place: Place) -> None:
    """The call has run, its result waits in the worker, and none runs again."""
    names = ["a", "b"]
    worker = place.start(*ONE)
    results = [place.app.send_task("drill_tasks.hold", [name]) for name in names]
    until(lambda: len(place.entries()) == 2, what="both run")
    disk.fill()
    place.let_go()
    until(lambda: "wait to be recorded" in worker.log(), what=f"it waits: {worker.log()}")
    assert FULL in worker.log()
    assert is_idle(worker)
    assert not any(result.ready() for result in results)
    disk.free()
    assert [result.get(timeout=PATIENCE) for result in results] == names
    assert set(place.counts().values()) == {1}
    assert "Traceback" not in worker.log()
    assert worker.stop() == 0


def test_a_payload_store_that_is_full(disk: Disk, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/cloudq.db"
    payloads = payloads_at(tmp_path, url, url, f"file:///{disk.folder}/payloads")
    with closing(payloads.place) as place:
        waiting = payloads.take.delay(1, bytes(300_000))
        disk.fill()
        with pytest.raises(PayloadError, match=FULL) as full:
            payloads.take.delay(2, bytes(300_000))
        assert "slow down" not in str(full.value)
        assert payloads.kinds() == ["messages"], "what was refused leaves no part of it"
        worker = place.start(*ONE)
        assert waiting.get(timeout=PATIENCE) == f"1 {digest(bytes(300_000))}"
        disk.fill()  # what the first call had taken is free again
        given = payloads.give.delay(400_000)
        until(lambda: FULL in worker.log(), what=f"it tells why: {worker.log()}")
        assert not given.ready()
        assert is_idle(worker)
        disk.free()
        assert len(given.get(timeout=2 * PATIENCE)) == 400_000
        eventually(lambda: payloads.kinds() == ["results"])
        assert "Traceback" not in worker.log()
        assert worker.stop() == 0
