"""Fifty open pages beside a worker at full speed: what they take from it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest

from cloudq import CloudQ
from cloudq.messages.message import new_id
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.operations import queues
from cloudq.results.record import Record, State
from cloudq.testing import eventually
from tests.dashboard.shop import shop
from tests.worker.harness import Place

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
RECORDED, PAIRS, WINDOW = (100_000, 10, 8.0) if FULL else (5_000, 1, 3.0)
PAGES = 50
MOST_LOST = 0.03
HERE = Path(__file__).parent


class Readers:
    """Open pages whose events are read and thrown away, by one thread."""

    def __init__(self, port: int) -> None:
        request = b"GET /live?view=%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        views = (b"/", b"/tasks", b"/queues", b"/workers", b"/tasks?state=failed")
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(PAGES)]
        for number, each in enumerate(self._sockets):
            each.sendall(request % views[number % len(views)].replace(b"?", b"%3F"))
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            for each in select.select(self._sockets, [], [], 0.2)[0]:
                self.bytes += len(each.recv(1 << 16))

    def close(self) -> None:
        """Leave all pages."""
        self._over.set()
        self._thread.join()
        for each in self._sockets:
            each.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A shop on SQLite with a past, and a worker."""
    url = f"sqlite:///{tmp_path}/shop.db"
    app = shop(url)
    made = Place(
        app=app, broker=url, backend=url, queue="default", folder=tmp_path, tasks="shop_app:app"
    )
    made.environment["PYTHONPATH"] = str(HERE)
    with closing(made):
        _record(app)
        yield made


@pytest.fixture
def port(place: Place) -> Iterator[int]:
    """The port of a dashboard in a process of its own."""
    command = [sys.executable, "-m", "cloudq", "dashboard", "-A", "shop_app:app", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "-b", place.broker, "--backend", place.backend],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rpartition(":")[2].strip("/\n"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _record(app: CloudQ) -> None:
    """Record the ends of tasks of the last hours, one in fifty a failure."""
    backend, now = app.control.backend, time.time()
    for start in range(0, RECORDED, 1000):
        records = [
            Record(
                id=new_id(),
                state=State.SUCCESS if number % 50 else State.FAILURE,
                task=f"shop.task{number % 20}",
                error_type=None if number % 50 else "ValueError",
                queue="default",
                worker="w",
                started_at=now - RECORDED / 10 + number / 10,
                finished_at=now - RECORDED / 10 + number / 10,
            )
            for number in range(start, start + 1000)
        ]
        backend.store(records)
        assert backend.history is not None
        backend.put([item for record in records for item in backend.history.items(record)])


def _beat(app: CloudQ) -> Heartbeat:
    return eventually(lambda: app.control.heartbeats.alive())[0]


def _later(app: CloudQ, seen: float) -> Heartbeat:
    return eventually(lambda: next((b for b in app.control.heartbeats.alive() if b.seen > seen), 0))


def _rate(app: CloudQ) -> float:
    """Tasks a second of the worker, between two of its heartbeats."""
    first = _later(app, _beat(app).seen)
    time.sleep(WINDOW)
    last = _later(app, _beat(app).seen)
    return (last.done - first.done) / (last.seen - first.seen)


def _feed(app: CloudQ, least: int) -> None:
    add = app.tasks["shop.add"]
    while (queues.queue(app, "default").ready or 0) < least:
        app.publish([add.prepare(1, 1) for _ in range(2_000)])


@pytest.mark.drill
@pytest.mark.slow
def test_open_pages_take_little_from_a_worker_at_full_speed(place: Place, port: int) -> None:
    app = place.app
    _feed(app, 2_000)
    place.start("--processes", "1", "--threads", "16")
    least, kept = 20_000 if FULL else 4_000, list[tuple[float, float]]()
    seen = 0
    for number in range(PAIRS):
        rates = {}
        # Each pair in the other order, so that what grows with time is in both.
        for is_open in (False, True) if number % 2 else (True, False):
            _feed(app, least)
            if not is_open:
                rates[is_open] = _rate(app)
                continue
            readers = Readers(port)
            try:
                rates[is_open] = _rate(app)
                seen += readers.bytes
            finally:
                readers.close()
        least = max(least, int(3 * max(rates.values()) * WINDOW))
        kept.append((rates[False], rates[True]))
        print(f"alone {rates[False]:,.0f}/s, with {PAGES} open pages {rates[True]:,.0f}/s")
    lost = median(1 - watched / alone for alone, watched in kept)
    said = f"{PAGES} open pages over {RECORDED:,} tasks: the worker's rate falls by {lost:.1%}"
    print(f"{said} (aim: less than {MOST_LOST:.0%})")
    assert seen > 0, "the pages were live"
    assert all(watched > 0 for _, watched in kept), "the worker goes on"
