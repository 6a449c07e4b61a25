"""Shows how far a crowd of tasks has come: a live bar at a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

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

from cloudq.cli.output import console

_EVERY = 2.0


class View(Protocol):
    """Something that shows progress, step after step."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def step(self, label: str, total: int) -> None:
        """Begin something new."""
        ...

    def show(self, done: int, retries: int, rate: float) -> None:
        """Show how far it is."""
        ...


def view() -> View:
    """The view that suits standard output."""
    output = console()
    return Bars(output) if output.is_terminal else Lines(output)


class Bars:
    """One live bar a step."""

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

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, label: str, total: int) -> None:
        self._bar = self._progress.add_task(label, total=total, remark="")

    def show(self, done: int, retries: int, rate: float) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, remark=_remark(retries, rate))


class Lines:
    """A line now and then, and one when a step is done."""

    def __init__(self, output: Console) -> None:
        self._output = output
        self._label = ""
        self._total = 0
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held."""

    def step(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._next = time.monotonic() + _EVERY

    def show(self, done: int, retries: int, rate: float) -> None:
        if done < self._total and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        line = f"{self._label}: {done} of {self._total}  {_remark(retries, rate)}"
        self._output.print(line.rstrip(), markup=False)


def _remark(retries: int, rate: float) -> str:
    speed = f"{rate:,.0f}/s" if rate else ""
    again = f"{retries} retries" if retries else ""
    return "  ".join(filter(None, (speed, again)))
