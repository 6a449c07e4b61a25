"""The picture of `cloudq top` fits its terminal, whatever strangers have named things."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from cloudq.cli.top.screen import View, drawn
from cloudq.operations.overview import Overview, Series, Snapshot
from cloudq.operations.queues import QueueRow
from cloudq.operations.workers import RunningTask, WorkerRow

HOSTILE = "\x1b[31mred\x1b[0m\u202e[bold]" + "x" * 300


def overview(rows: int) -> Overview:
    """Make an overview with so many rows of each kind, all with hostile names."""
    worker = WorkerRow(
        name=HOSTILE,
        alive=False,
        app="",
        pid=1,
        version="",
        started=1.0,
        seen=2.0,
        every=15.0,
        processes=10**9,
        threads=10**9,
        running=10**12,
        waiting=10**12,
        done=10**12,
        failed=10**12,
        queues=(HOSTILE,) * 5,
        longest=(),
    )
    task = RunningTask(id=HOSTILE, task=HOSTILE, since=1.0, worker=HOSTILE)
    series = Series(
        task=HOSTILE, counts=[1] * 12, span=3600.0, total=12, latest=HOSTILE, latest_at=1.0
    )
    return Overview(
        at=3.0,
        queues=[QueueRow(queue=HOSTILE, ready=10**12, problem=HOSTILE)] * rows,
        workers=[worker] * rows,
        running=[task] * rows,
        failures=[series] * rows,
        due=(),
        costs=None,
        snapshot=Snapshot(at=3.0, done={}, failed={}, waiting={}),
        rates=None,
        problems={"store": HOSTILE},
    )


@pytest.mark.parametrize("width", [40, 63, 80, 100, 160])
@pytest.mark.parametrize("height", [16, 24, 50])
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_it_fits_and_nothing_of_strangers_is_obeyed(width: int, height: int, rows: int) -> None:
    output = Console(file=io.StringIO(), width=width, force_terminal=False, legacy_windows=False)
    with output.capture() as captured:
        output.print(
            drawn(overview(rows), View(), HOSTILE, width=width, height=height, foot=HOSTILE)
        )
    lines = captured.get().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in captured.get()
    assert "\u202e" not in captured.get()
    assert not rows or "[bold]" in captured.get()


def test_a_long_error_leaves_the_name_and_the_count_whole() -> None:
    seen = overview(0)
    long = "unknown task: " + "is its module in the app's include? " * 9
    failures = [
        Series(task=f"shop.tasks.{n}", counts=[1], span=1.0, total=44, latest=long, latest_at=1.0)
        for n in ("price", "stock")
    ]
    output = Console(file=io.StringIO(), width=60, force_terminal=False, legacy_windows=False)
    with output.capture() as captured:
        output.print(drawn(replace(seen, failures=failures), View(), "s", width=60, height=30))
    lines = captured.get().splitlines()
    for name in ("price", "stock"):
        [line] = [line for line in lines if name in line]
        assert line.split()[:3] == [f"shop.tasks.{name}", "44", "unknown"]
        assert len(line) <= 60
