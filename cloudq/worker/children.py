"""The supervisor's side of its child processes: start them, hand them jobs, see them die."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from cloudq.settlement import Settlement
from cloudq.worker import wire
from cloudq.worker.flight import Flight
from cloudq.worker.options import WorkerOptions

log = logging.getLogger("cloudq.worker")


class Child:
    """One process and the flights it has been given. Start it from the main thread.

    On Linux a child dies with the thread that started it, so that thread must outlive it.
    """

    def __init__(
        self,
        options: WorkerOptions,
        max_body: int,
        *,
        ready: Callable[[Child], None],
        settled: Callable[[Child, Sequence[tuple[Flight, Settlement]]], None],
        gone: Callable[[Child], None],
    ) -> None:
        self.capacity = options.threads
        self.flights: dict[int, Flight] = {}
        self.given = 0
        self.ready = False
        self.retiring = False
        self.stopped = False
        self.killed_for: Flight | None = None
        self.started_at = time.monotonic()
        self._max_body = max_body
        self._lock = threading.Lock()
        self._on_ready, self._on_settled, self._on_gone = ready, settled, gone
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "cloudq.worker.child", str(theirs.fileno())]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._connection = Connection(ours.detach())
        self._connection.send(self._config(options))
        self._reader = threading.Thread(target=self._read, name=f"child-{self.pid}", daemon=True)
        self._reader.start()

    @staticmethod
    def _config(options: WorkerOptions) -> dict[str, Any]:
        return {
            "parent": os.getpid(),
            "path": sys.path,
            "app_path": options.app_path,
            "overrides": dict(options.overrides),
            "threads": options.threads,
            "hostname": options.hostname,
            "log_level": options.log_level,
            "log_format": options.log_format,
        }

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def free(self) -> int:
        usable = self.ready and not self.retiring and not self.stopped
        return self.capacity - len(self.flights) if usable else 0

    def take(self, flights: Sequence[Flight]) -> None:
        """Call under the dispatcher's lock: from now on these are the child's."""
        self.flights.update((flight.number, flight) for flight in flights)
        self.given += len(flights)

    def send(self, flights: Sequence[Flight]) -> None:
        """Write the jobs to the child. If it is dead they are found in `flights` later."""
        jobs = [wire.pack_job(f.number, f.job) for f in flights if f.job is not None]
        try:
            with self._lock:
                wire.send(self._connection, jobs)
        except OSError:
            log.debug("child %d is gone, its jobs go back", self.pid)

    def stop(self) -> None:
        """Ask an idle child to leave."""
        self.stopped = True
        try:
            with self._lock:
                wire.send(self._connection, [wire.STOP])
        except OSError:
            log.debug("child %d has left already", self.pid)

    def kill(self) -> None:
        self.process.kill()

    def _read(self) -> None:
        while True:
            try:
                messages = wire.receive(self._connection)
            except (EOFError, OSError):
                break
            if messages and messages[0] == wire.READY:
                self.ready = True
                self._on_ready(self)
                continue
            done: list[tuple[Flight, Settlement]] = []
            for packed in messages:
                number, settlement = wire.unpack_settlement(packed, self._max_body)
                flight = self.flights.get(number)
                if flight is not None:
                    done.append((flight, settlement))
            self._on_settled(self, done)
        self._on_gone(self)

    def close(self) -> None:
        """Reap the process and close the connection; the reader has ended."""
        self.process.wait()
        self._reader.join()
        self._connection.close()
