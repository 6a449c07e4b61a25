"""Shows the progress of many tasks: live bars at a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cloudq.cli.output import console, say

_EVERY = 2.0


class ProgressView(ABC):
    """Progress of a job, step by step; open during a `with` block."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def open(self) -> None:
        """Begin to show."""

    @abstractmethod
    def close(self) -> None:
        """Finish showing."""

    @abstractmethod
    def step(self, label: str, total: int) -> None:
        """Begin a step of `total` tasks."""

    @abstractmethod
    def show(self, done: int, retries: int, rate: float) -> None:
        """Show the progress of the current step."""


def view() -> ProgressView:
    """Return bars for a terminal, lines for anything else."""
    output = console()
    return Bars(output) if output.is_terminal else Lines()


class Bars(ProgressView):
    """A live bar per step."""

    def __init__(self, output: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[remark]}", style="dim"),
            TimeElapsedColumn(),
            console=output,
        )
        self._bar: TaskID | None = None

    def open(self) -> None:
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()

    def step(self, label: str, total: int) -> None:
        self._bar = self._progress.add_task(label, total=total, remark="")

    def show(self, done: int, retries: int, rate: float) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, remark=_remark(retries, rate))


class Lines(ProgressView):
    """A line every two seconds, and one at the end of a step."""

    def __init__(self) -> None:
        self._label = ""
        self._total = 0
        self._next = 0.0

    def open(self) -> None:
        """Do nothing: lines need no preparation."""

    def close(self) -> None:
        """Do nothing: every line has been printed."""

    def step(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._next = time.monotonic() + _EVERY

    def show(self, done: int, retries: int, rate: float) -> None:
        if done < self._total and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        line = f"{self._label}: {done} of {self._total}  {_remark(retries, rate)}"
        say(line.rstrip())


def _remark(retries: int, rate: float) -> str:
    speed = f"{rate:,.0f}/s" if rate else ""
    again = f"{retries} retries" if retries else ""
    return "  ".join(filter(None, (speed, again)))
