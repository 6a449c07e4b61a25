"""`cloudq migrate`: moves queued tasks from one broker to another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)

from cloudq.amounts import counted
from cloudq.broker.migration import Endpoint, Migration, Moved, Options, Preview, Report
from cloudq.cli.options import JsonOption, Target, YesOption, common, refuse_missing
from cloudq.cli.output import complain, confirm, console, emit, note, safe, say, table
from cloudq.driver import loader as plugins
from cloudq.driver.adapters import adapter
from cloudq.errors import ConfigurationError, ServiceError
from cloudq.messages.codec import Codec
from cloudq.results.backend import Backend

_EVERY = 2.0


Source = Annotated[str, typer.Argument(metavar="FROM", help="Broker to move messages from.")]
Sink = Annotated[str, typer.Argument(metavar="TO", help="Broker to move messages to.")]
Queues = Annotated[
    list[str] | None,
    typer.Option(
        "-Q", "--queue", metavar="QUEUE", help="Queues to move. Default: all queues of FROM."
    ),
]
Renamed = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OLD=NEW", help="Rename a queue in TO."),
]
Create = Annotated[bool, typer.Option("--create", help="Create missing queues in TO.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Also move messages that are not tasks, unchanged.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for delayed messages that FROM cannot list.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Move at most N messages.")
]
Lease = Annotated[
    float,
    typer.Option(
        min=1, metavar="SECONDS", help="Time until messages held by a killed run are free."
    ),
]
JournalFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Journal file. Default: one per queue in this folder."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be moved.")]


@common
def migrate(
    target: Target,
    source_url: Source,
    target_url: Sink,
    queues: Queues = None,
    renamed: Renamed = None,
    create: Create = False,
    raw: Raw = False,
    wait: Wait = False,
    limit: Limit = None,
    lease: Lease = 60.0,
    journal: JournalFile = None,
    dry_run: DryRun = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> int:
    """Move queued tasks from one broker to another.

    Stop the workers of both brokers first. Ids, arguments and times are preserved. Messages that
    need a feature TO lacks (group order, deduplication, long delays) stay in FROM, with the reason.
    Dead letters and results are not moved. After an interruption, even a kill, run the same command
    again: a journal records what was moved. Exits with 0 if nothing was left behind.
    """
    options = Options(
        queues=queues or (),
        names=_names(renamed or ()),
        create=create,
        raw=raw,
        wait=wait,
        limit=limit,
        lease=lease,
        journal=journal,
    )
    return _move(target, (source_url, target_url), options, dry_run=dry_run, yes=yes, json=json)


def _move(
    target: Target,
    urls: tuple[str, str],
    options: Options,
    *,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> int:
    """Show the plan, ask, move the messages, and return the exit code."""
    source_url, target_url = urls
    refuse_missing(source_url)
    stop = Event()
    with _opened(target, source_url, target_url) as (source, sink, backend), _Progress(json) as bar:
        migration = Migration(
            source,
            sink,
            options,
            backend=backend,
            codec=_codec(target),
            stop=stop,
            say=bar.say,
            told=bar.show,
        )
        pairs = migration.pairs()
        if not pairs:
            note(f"no queues on {source_url}")
        migration.check({} if dry_run else pairs, create=options.create)
        seen = migration.preview(pairs, look=dry_run)
        if dry_run:
            _tell_preview(seen, source_url, json=json)
            return 0
        if not json:
            _tell_plan(seen)
        if pairs:
            confirm(f"Move {_amount(seen)} from {source_url} to {target_url}?", "yes", yes=yes)
        try:
            with _stopping(stop), bar.running(seen):
                migration.run(pairs)
        except ServiceError:
            _tell(migration.report, json=json)
            note("moved messages are safe: run the same command again to continue")
            raise
        _tell(migration.report, json=json)
    return 0 if migration.report.complete else 1


@contextmanager
def _opened(
    target: Target, source_url: str, target_url: str
) -> Generator[tuple[Endpoint, Endpoint, Backend | None]]:
    if target.broker is not None:
        raise ConfigurationError("give the brokers as FROM and TO, without -b")
    for url in (source_url, target_url):
        if url.startswith("memory:"):
            raise ConfigurationError(f"{url} exists only within one process: nothing to move")
    with ExitStack() as stack:
        backend: Backend | None = None
        url = _backend_url(target)
        if url is not None:
            backend = Backend(plugins.open_backend(url), url=url)
            stack.callback(backend.close)
        sides: list[Endpoint] = []
        for url in (source_url, target_url):
            driver = plugins.open_broker(url)
            stack.callback(driver.close)
            peeks = adapter(url).peek_cost is None
            sides.append(Endpoint.of(driver, url, backend, peeks=peeks))
        yield sides[0], sides[1], backend


def _backend_url(target: Target) -> str | None:
    """Return the backend given by option, environment or app, if any."""
    url = target.backend or os.environ.get("CLOUDQ_BACKEND")
    if url is None and target.path is not None:
        app = target.load()
        url = app.conf.backend_url
        app.close()
    return None if url in (None, "", "none") else url


def _codec(target: Target) -> Codec | None:
    """Return the codec of the app whose messages are moved; None if no app is given."""
    if target.path is None:
        return None
    app = target.load()
    app.close()
    return app.runtime.codec


def _names(given: Sequence[str]) -> Mapping[str, str]:
    pairs = [each.partition("=") for each in given]
    bad = [before + sign + after for before, sign, after in pairs if not before or not after]
    if bad:
        raise ConfigurationError(f"--map {bad[0]}: use the form --map OLD=NEW")
    return {before: after for before, _, after in pairs}


# ---- interruption and progress


@contextmanager
def _stopping(stop: Event) -> Generator[None]:
    """End the run after the current batch at the first SIGINT or SIGTERM, at once at a second."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in signals:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Progress on standard error: live bars at a terminal, a line every two seconds elsewhere."""

    def __init__(self, silent: bool) -> None:
        output = console(stderr=True)
        self._silent = silent
        self._live = output.is_terminal and not silent
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[remark]}", style="dim"),
            console=output,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int | None] = {}
        self._started = 0.0
        self._next = 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def running(self, seen: Sequence[Preview]) -> Generator[None]:
        self._started = time.monotonic()
        self._next = self._started + _EVERY
        self._totals = {each.queue: _count(each) for each in seen}
        self._bars.start()
        try:
            yield
        finally:
            self._bars.stop()

    def say(self, message: str) -> None:
        note(message)

    def show(self, moved: Moved) -> None:
        spent = max(time.monotonic() - self._started, 0.001)
        rate = (moved.moved - moved.earlier) / spent
        remark = f"{moved.delayed} delayed  {moved.left.total()} left  {rate:,.0f}/s"
        if self._live:
            if moved.queue not in self._tasks:
                total = self._totals.get(moved.queue)
                bar = self._bars.add_task(safe(moved.queue), total=total, remark="")
                self._tasks[moved.queue] = bar
            done = moved.moved - moved.earlier
            self._bars.update(self._tasks[moved.queue], completed=done, remark=remark)
        elif not self._silent and time.monotonic() > self._next:
            self._next = time.monotonic() + _EVERY
            note(f"{moved.queue}: {moved.moved} moved  {remark}")


# ---- output


def _count(seen: Preview) -> int | None:
    if seen.stats is None or seen.stats.ready is None:
        return None
    delayed = seen.listed if seen.stores_delayed else seen.stats.delayed or 0
    return seen.stats.ready + delayed + (seen.stats.leased or 0)


def _amount(seen: Sequence[Preview]) -> str:
    counts = [_count(each) for each in seen]
    known = sum(count or 0 for count in counts)
    amount = "all messages" if None in counts else counted(known, "message")
    return (
        f"{amount} in {counted(len(seen), 'queue')}"
        if len(seen) != 1
        else f"{amount} in {seen[0].queue!r}"
    )


def _tell_plan(seen: Sequence[Preview]) -> None:
    rows = [_plan_row(each) for each in seen]
    table(("QUEUE", "TO", "READY", "DELAYED", "RUNNING", "DEAD"), rows, empty="nothing to move")
    for each in seen:
        _warn(each)


def _plan_row(each: Preview) -> list[object]:
    if each.stats is None:
        return [each.queue, each.target, None, None, None, None]
    stats = each.stats
    delayed = each.listed if each.stores_delayed else stats.delayed
    return [each.queue, each.target, stats.ready, delayed, stats.leased, stats.dead]


def _warn(each: Preview) -> None:
    for reason, count in each.stays.most_common():
        note(f"{each.queue}: {count} of the {each.shown} messages read will stay: {reason}")
    if each.stats is None:
        return
    hidden = (each.stats.delayed or 0) - each.listed
    if hidden > 0:
        note(
            f"{each.queue}: {counted(hidden, 'delayed message')} cannot be listed; use --wait to "
            "wait for them"
        )
    if each.stats.leased:
        note(f"{each.queue}: {each.stats.leased} messages are running: stop the workers first")
    if each.stats.dead:
        note(f"{each.queue}: {each.stats.dead} dead letters will stay: see `cloudq dead`")


def _tell_preview(seen: Sequence[Preview], url: str, *, json: bool) -> None:
    if json:
        emit({"dry_run": True, "queues": [_plain(each) for each in seen]})
        return
    _tell_plan(seen)
    rows = [
        (each.queue, task, count) for each in seen for task, count in sorted(each.tasks.items())
    ]
    if rows:
        say("")
        table(("QUEUE", "TASK", "WOULD MOVE"), rows, empty="")
    if not all(each.whole for each in seen):
        note("not all messages could be read: there are more than shown")
    remark = adapter(url).peek_cost
    if remark:
        note(remark)
    note("dry run: nothing was moved")


def _tell(report: Report, *, json: bool) -> None:
    if json:
        queues = [{**_plain(each), "complete": each.complete} for each in report.queues]
        emit({"complete": report.complete, "interrupted": report.interrupted, "queues": queues})
    for each in report.queues if not json else ():
        say(_audit(each))
    for each in report.queues:
        for reason, count in each.left.most_common():
            complain(f"{each.queue}: {count}: {reason}", kind="left")
    if report.interrupted:
        note("interrupted, all held messages were released; run the same command again to continue")
    elif not all(each.finished for each in report.queues):
        note("stopped at --limit; run the same command again to continue")
    sys.stderr.flush()


def _plain(each: Moved | Preview) -> dict[str, object]:
    return {field.name: getattr(each, field.name) for field in fields(each)}


def _audit(each: Moved) -> str:
    """Sum up a queue in one line: messages before, moved, and left."""
    before = "unknown" if each.before is None else f"{each.before:,}"
    parts = [f"{before} at the source before", f"{each.moved:,} moved"]
    details = {"delayed": each.delayed, "in earlier runs": each.earlier}
    shown = ", ".join(f"{count:,} {name}" for name, count in details.items() if count)
    parts[-1] += f" ({shown})" if shown else ""
    if each.repeats:
        parts.append(f"{each.repeats:,} delivered again and dropped")
    if each.uncertain:
        parts.append(f"up to {each.uncertain:,} may be there twice")
    parts.append(f"{each.left.total():,} left" if each.finished else "not finished")
    where = each.queue if each.queue == each.target else f"{each.queue} -> {each.target}"
    return f"{where}: {', '.join(parts)}"


def add_to(program: typer.Typer) -> None:
    """Add `migrate` to the commands of `cloudq`."""
    program.command()(migrate)
