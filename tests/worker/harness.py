"""Real workers for tests: started, killed and stopped as an operator would, and audited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cloudq import CloudQ
from cloudq.testing.waiting import PATIENCE

HERE = Path(__file__).parent


def until(condition: Callable[[], object], *, what: str, within: float = PATIENCE) -> None:
    """Wait for a condition. Raises `AssertionError` when it does not come in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)


@dataclass(slots=True, kw_only=True)
class Place:
    """The place of a drill: an app's broker, backend and queue, and the ledger of its tasks."""

    app: CloudQ
    broker: str
    backend: str
    queue: str
    folder: Path
    tasks: str = "drill_tasks:app"
    environment: dict[str, str] = field(default_factory=dict[str, str])
    workers: list[Worker] = field(default_factory=list["Worker"])

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def entries(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def let_go(self, pid: int | None = None) -> None:
        """Let the tasks go on that wait for it, or with a `pid` those of this process."""
        Path(f"{self.ledger}.{pid or 'go'}").touch()

    def counts(self) -> Counter[str]:
        return Counter(self.entries())

    def start(self, *options: str, ready: bool = True, queues: str | None = None) -> Worker:
        """Start a worker and, with `ready`, wait until it has children that take tasks."""
        worker = Worker(self, ["-Q", queues or self.queue, *options])
        self.workers.append(worker)
        if ready:
            until(worker.is_up, what=f"the worker is up: {worker.log()}")
        return worker

    def await_workers(self) -> None:
        """Wait until all that were started have children that take tasks."""
        for worker in self.workers:
            until(worker.is_up, what=f"the worker is up: {worker.log()}")

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.app.close()


class Worker:
    """One `cloudq worker` process."""

    def __init__(self, place: Place, options: Sequence[str]) -> None:
        self._log = place.folder / f"worker-{len(place.workers)}.log"
        environment = {
            # A warm stop waits for the receive under way.
            "CLOUDQ_WORKER_POLL_WAIT": "2",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
            "DRILL_LEDGER": str(place.ledger),
            "PYTHONUNBUFFERED": "1",
            **place.environment,
        }
        command = [sys.executable, "-m", "cloudq", "worker", "-A", place.tasks]
        command += ["--broker", place.broker, "--backend", place.backend, *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._family = psutil.Process(self.process.pid)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        """The processes that run tasks; `[]` when the supervisor is gone."""
        with suppress(psutil.NoSuchProcess):
            server = self.fork_server()
            direct = [child for child in self._family.children() if child != server]
            return direct + ([] if server is None else server.children())
        return []

    def fork_server(self) -> psutil.Process | None:
        """The process that the others are forked from."""
        for child in self._family.children():
            with suppress(psutil.NoSuchProcess):
                if child.cmdline() == self._family.cmdline():
                    return child
        return None

    def cpu(self) -> float:
        """The processor time that the supervisor has used, in seconds."""
        used = self._family.cpu_times()
        return used.user + used.system

    def is_up(self) -> bool:
        assert self.process.poll() is None, f"the worker ended: {self.log()}"
        return "is ready" in self.log()

    def kill(self) -> None:
        """kill -9 of the supervisor; the children must follow by themselves."""
        children = self.children()
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not alive, f"children outlived their supervisor: {alive}"

    def stop(self, *, within: float = PATIENCE) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def end(self) -> None:
        """Leave no process behind, whatever became of the test."""
        children = self.children()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()
        psutil.wait_procs(children, timeout=PATIENCE)
