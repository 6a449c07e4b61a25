"""Draws `cloudq top`: an overview as tables that fit the terminal, sorted and filtered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cloudq.cli.output import duration, since, styled
from cloudq.operations.overview import Overview, Series
from cloudq.operations.queues import QueueRow
from cloudq.operations.workers import RunningTask, WorkerRow

_BARS = "▁▂▃▄▅▆▇█"
_NARROW, _NARROWEST = 100, 64
_LOW = 24
# Lines of the head and the foot, of the titles and heads of four tables, and one behind each.
_FIXED, _GAPS = 2 + 4 * 2, 5
_LEAST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The choices of who looks: how rows are sorted, the text that they must have, and a pause.

    `typing` is the filter that is being typed, None if none is.
    """

    sort: str = "name"
    filter: str = ""
    typing: str | None = None
    paused: bool = False

    def next_sort(self) -> View:
        """Return the view that is sorted in the next way."""
        names = list(SORTS)
        return replace(self, sort=names[(names.index(self.sort) + 1) % len(names)])

    def shows(self, *texts: str) -> bool:
        """Tell whether a row with these texts is shown."""
        wanted = (self.filter if self.typing is None else self.typing).casefold()
        return not wanted or any(wanted in text.casefold() for text in texts)


def _by_name(row: QueueRow) -> tuple[float, str]:
    return 0.0, row.queue


def _by_ready(row: QueueRow) -> tuple[float, str]:
    return -float(row.ready or 0), row.queue


def _by_dead(row: QueueRow) -> tuple[float, str]:
    return -float(row.dead or 0), row.queue


def _by_oldest(row: QueueRow) -> tuple[float, str]:
    return -(row.oldest_age or 0.0), row.queue


SORTS: Mapping[str, Callable[[QueueRow], tuple[float, str]]] = {
    "name": _by_name,
    "ready": _by_ready,
    "dead": _by_dead,
    "oldest": _by_oldest,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A table: its title, columns and rows.

    In narrow terminals the `wide` columns are left out, in the narrowest also the `middle` ones.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Text]]
    wide: frozenset[str] = frozenset()
    middle: frozenset[str] = frozenset()
    empty: str = "none"


def drawn(
    seen: Overview, view: View, name: str, *, width: int, height: int, foot: str = ""
) -> RenderableType:
    """Draw an overview for a terminal of this size; `foot` is its last line."""
    blocks = [
        _queues(seen, view),
        _workers(seen, view),
        _running(seen, view),
        _failures(seen, view),
    ]
    gap = [_text("")] if height >= _LOW else []
    gaps = _GAPS if gap else 0
    room = max(len(blocks), height - _FIXED - gaps - len(seen.problems))
    shares = _shares([max(1, len(block.rows)) for block in blocks], room)
    parts: list[RenderableType] = [_head(seen, view, name), *gap]
    for problem, why in seen.problems.items():
        parts.append(_line(f"{problem}: {why}", "red"))
    if view.filter or view.typing:
        blocks = [replace(block, empty="none that match") for block in blocks]
    if "store" in seen.problems:  # what cannot be read is not nothing
        blocks = [blocks[0], *(replace(block, empty="not known") for block in blocks[1:])]
    if "queues" in seen.problems:
        blocks[0] = replace(blocks[0], empty="not known")
    for block, share in zip(blocks, shares, strict=True):
        parts += [*_table(block, share, width), *gap]
    if foot:
        parts.append(_line(foot, "dim"))
    return Group(*parts)


def bars(counts: Sequence[int]) -> str:
    """Write counts as a row of small bars."""
    most = max(counts, default=0)
    if not most:
        return _BARS[0] * len(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


def _head(seen: Overview, view: View, name: str) -> Text:
    moment = time.strftime("%H:%M:%S", time.localtime(seen.at))
    parts: list[str | tuple[str, str]] = [(name, "bold"), f"  {moment}"]
    rates = seen.rates
    if rates is not None:
        parts.append(f"  in {_rate(rates.arriving)}/s  out {_rate(rates.ending)}/s  ")
        style = "red" if rates.failing else ""
        parts.append((f"failing {_rate(rates.failing)}/s", style))
    if seen.costs is not None and seen.costs.nothing is None:
        parts.append(f"  ${seen.costs.dollars_a_month:,.2f} a month")
    if view.paused:
        parts.append(("  PAUSED", "bold yellow"))
    return _cut(styled(*parts))


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _queues(seen: Overview, view: View) -> _Block:
    rows = sorted((r for r in seen.queues if view.shows(r.queue)), key=SORTS[view.sort])
    return _Block(
        title=f"QUEUES by {view.sort}",
        columns=("QUEUE", "READY", "RUNNING", "DELAYED", "OLDEST", "DEAD", "STATE"),
        rows=[_queue(row) for row in rows],
        middle=frozenset({"DELAYED", "OLDEST"}),
    )


def _queue(row: QueueRow) -> Sequence[Text]:
    state = "paused" if row.pause else (row.problem or "")
    style = "yellow" if row.pause else "red"
    return (
        _text(row.queue),
        _number(row.ready),
        _number(row.running),
        _number(row.delayed),
        _text(duration(row.oldest_age)),
        _number(row.dead, "red"),
        _text(state, style),
    )


def _workers(seen: Overview, view: View) -> _Block:
    rows = [row for row in seen.workers if view.shows(row.name, *row.queues)]
    return _Block(
        title="WORKERS",
        columns=("WORKER", "STATE", "RUNNING", "WAITING", "DONE", "FAILED", "UP", "QUEUES"),
        rows=[_worker(row) for row in rows],
        wide=frozenset({"UP", "QUEUES"}),
        middle=frozenset({"WAITING"}),
        empty="no worker in this store",
    )


def _worker(row: WorkerRow) -> Sequence[Text]:
    state = _text("up", "green") if row.alive else _text(f"silent {since(row.seen)}", "red")
    return (
        _text(row.name),
        state,
        _text(f"{row.running}/{row.slots}"),
        _number(row.waiting),
        _number(row.done),
        _number(row.failed, "red"),
        _text(since(row.started)),
        _text(", ".join(row.queues)),
    )


def _running(seen: Overview, view: View) -> _Block:
    rows = [row for row in seen.running if view.shows(row.task, row.id, row.worker)]
    return _Block(
        title="RUNNING for longest",
        columns=("FOR", "TASK", "WORKER", "ID"),
        rows=[_task(row) for row in rows],
        wide=frozenset({"ID"}),
        empty="nothing runs",
    )


def _task(row: RunningTask) -> Sequence[Text]:
    return _text(since(row.since)), _text(row.task), _text(row.worker), _text(row.id)


def _failures(seen: Overview, view: View) -> _Block:
    rows = [row for row in seen.failures if view.shows(row.task, row.latest or "")]
    return _Block(
        title="FAILURES of the last hour",
        columns=("TASK", "COUNT", "LAST HOUR", "LATEST", "ERROR"),
        rows=[_failure(row) for row in rows],
        middle=frozenset({"LAST HOUR", "LATEST"}),
    )


def _failure(row: Series) -> Sequence[Text]:
    return (
        _text(row.task),
        _text(f"{row.total:,}{'+' if row.more else ''}", "red"),
        _text(bars(row.counts), "red"),
        _text(f"{since(row.latest_at)} ago"),
        _text(row.latest or ""),
    )


_NUMBERS = frozenset({"READY", "RUNNING", "DELAYED", "OLDEST", "DEAD", "WAITING", "DONE"}) | {
    "FAILED",
    "COUNT",
    "FOR",
}
# Columns that keep their whole text, as far as there is room.
_NAMES = frozenset({"QUEUE", "WORKER", "TASK"})


def _table(block: _Block, most: int, width: int) -> list[RenderableType]:
    count = f", {most} of {len(block.rows):,}" if most < len(block.rows) else ""
    title = _line(f"{block.title}{count}", "bold cyan")
    if not block.rows:
        return [title, _text(block.empty, "dim")]
    left_out = block.wide if width < _NARROW else frozenset[str]()
    if width < _NARROWEST:
        left_out |= block.middle
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), expand=False)
    places = [place for place, name in enumerate(block.columns) if name not in left_out]
    rows = [[row[place] for place in places] for row in block.rows[:most]]
    names = [block.columns[place] for place in places]
    limits = _limits(names, rows, width)
    for name, limit in zip(names, limits, strict=True):
        grid.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=len(name) if name in _NUMBERS else min(8, len(name)),
            max_width=limit,
        )
    for row in rows:
        grid.add_row(*row)
    return [title, grid]


def _limits(
    names: Sequence[str], rows: Sequence[Sequence[Text]], width: int
) -> Sequence[int | None]:
    """Return the widest that each column may be: a text at the end has what the others leave."""
    limits = [max(12, width // 3) if name in _NAMES else None for name in names]
    if names[-1] not in _NUMBERS | _NAMES:
        widths = [
            max(len(name), *(row[place].cell_len for row in rows))
            for place, name in enumerate(names[:-1])
        ]
        # Two signs stand between columns.
        taken = sum(min(wide, limits[place] or wide) + 2 for place, wide in enumerate(widths))
        limits[-1] = max(len(names[-1]), width - taken)
    return limits


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """Share the lines out: each block gets what it wants, or an even part of what is left."""
    shares = [min(want, _LEAST) for want in wanted]
    left = room - sum(shares)
    while left > 0 and any(share < want for share, want in zip(shares, wanted, strict=True)):
        for place, want in enumerate(wanted):
            if shares[place] < want and left > 0:
                shares[place] += 1
                left -= 1
    return shares


def _line(value: str, style: str) -> Text:
    return _cut(styled((value, style)))


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _text(value: str, style: str = "") -> Text:
    return styled((value, style))


def _number(value: int | None, style: str = "") -> Text:
    return _text("-" if value is None else f"{value:,}", style if value else "")
