"""The common parts of the benchmarks: a worker in its own process, its CPU time, and the table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the outcome. `better` is "more" or "less"; without a target it only informs."""

    what: str
    value: float
    unit: str
    target: float | None = None
    better: str = "less"
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "more" else self.value <= self.target


class BenchWorker:
    """A `cloudq worker` of `bench_tasks`, and what it has used of the CPU."""

    def __init__(self, options: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = Path(tempfile.mkstemp(prefix="cloudq-bench-", suffix=".log")[1])
        command = [sys.executable, "-m", "cloudq", "worker", "-A", "bench_tasks:app", *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while "is ready" not in self._log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not come up: {self._log.read_text()}")
            time.sleep(0.01)

    def family(self) -> list[psutil.Process]:
        """The supervisor and its children."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu(self) -> list[float]:
        """CPU seconds of each process so far."""
        return [sum(process.cpu_times()[:2]) for process in self.family()]

    def rss(self) -> list[float]:
        """Resident MB of each process."""
        return [process.memory_info().rss / 2**20 for process in self.family()]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.unlink()


@contextmanager
def worker(*options: str, **environment: str) -> Iterator[BenchWorker]:
    """A worker for a block."""
    running = BenchWorker(options, environment)
    try:
        yield running
    finally:
        running.stop()


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def until(condition: Callable[[], object], *, within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s")
        time.sleep(0.02)


def show(figures: Sequence[Figure]) -> None:
    """Print the figures, each beside its target."""
    table = Table("what", "figure", "target", "", "note", title="cloudq benchmarks")
    table.columns[1].justify = table.columns[2].justify = "right"
    for figure in figures:
        sign = ">=" if figure.better == "more" else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:g}"
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[figure.met]
        shown = f"{figure.value:,.2f}" if figure.value < 100 else f"{figure.value:,.0f}"
        table.add_row(figure.what, f"{shown} {figure.unit}", target, verdict, figure.note)
    Console(width=130).print(table)
