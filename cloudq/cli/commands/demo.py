"""`cloudq demo`: runs a real job on real files with a real worker."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.cli.commands.result import outcome
from cloudq.cli.demo.progress import view
from cloudq.cli.demo.worker import LocalWorker
from cloudq.cli.messages import backend_example
from cloudq.cli.options import Target, common, refuse_memory
from cloudq.cli.output import fields, note, say
from cloudq.driver import Code
from cloudq.errors import CloudQError, ConfigurationError, ServiceError
from cloudq.operations.queues import look
from cloudq.results.record import State

if TYPE_CHECKING:
    from cloudq.cli.demo.job import Done

_QUEUE = "demo"
_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "node_modules"})
_LARGEST = 4 << 20


@common
def demo(
    target: Target,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="Folder of text files. Default: Python's own source."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("-c", "--processes", min=1, help="Number of processes. Default: at most 4."),
    ] = None,
    threads: Annotated[
        int, typer.Option("-t", "--threads", min=1, help="Concurrent tasks per process.")
    ] = 4,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the queue and the log.")
    ] = None,
) -> int:
    """Index real files with a real worker.

    Runs one task per file, one that is retried, and a summary.
    Without --broker, everything is kept in a SQLite file in a new temporary folder.
    """
    # Imported late: making the app reads the settings, and errors in them are reported as usual.
    from cloudq.cli.demo import job as demo_job

    app = demo_job.app
    files = find_files(path)
    where = _folder(keep)
    file = f"sqlite:///{where / 'demo.db'}"
    # Without options only the file is used, even if the environment names a store.
    elsewhere = target.broker is None and app.conf.backend is not None
    target = target.over(Target(broker=file, backend=file if elsewhere else None))
    app.configure(**target.overrides)
    refuse_memory(app)
    with app:
        try:
            _check(app, target)
        except CloudQError:
            if keep is None:
                shutil.rmtree(where)
            raise
        count = processes or min(4, os.cpu_count() or 1)
        options = ["-A", "cloudq.cli.demo.tasks:app", "-Q", _QUEUE, *_urls(target)]
        options += ["--processes", str(count), "--threads", str(threads)]
        _introduce(app, len(files), count, threads)
        worker = LocalWorker(options, log=where / "worker.log")
        with _stoppable(), worker:
            try:
                with view() as progress:
                    done = demo_job.run(files, worker, progress)
            except CloudQError:
                for line in worker.tail():
                    note(f"worker: {line}")
                raise
            _report(app, done, target, where)
    failed = [record for record in done.records if record.state != State.SUCCESS]
    for record in failed[:5]:
        note(outcome(record))
    return 1 if failed else 0


def find_files(path: Path | None) -> list[str]:
    """List the text files under a folder or Python's own. Raises `ConfigurationError`."""
    folder = Path(sysconfig.get_paths()["stdlib"]) if path is None else path.absolute()
    if folder.is_file():
        return [str(folder)]
    if not folder.is_dir():
        raise ConfigurationError(f"folder {folder} does not exist")
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in _SKIPPED and not name.startswith(".")
        )
        candidates = (Path(base, name) for name in sorted(names))
        found += [str(file) for file in candidates if _wanted(file, only_python=path is None)]
    if not found:
        raise ConfigurationError(f"no text files in {folder}")
    return found


def _wanted(file: Path, *, only_python: bool) -> bool:
    if only_python and file.suffix != ".py":
        return False
    try:
        if not file.is_file() or not 0 < file.stat().st_size <= _LARGEST:
            return False
        with file.open("rb") as opened:
            return b"\0" not in opened.read(1024)
    except OSError:
        return False


def _folder(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="cloudq-demo-"))
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--keep {keep}: {error.strerror}") from error
    return keep.absolute()


def _check(app: CloudQ, target: Target) -> None:
    """Check before anything is sent that the queue and the table exist."""
    if app.conf.backend_url is None:
        raise ConfigurationError(
            f"the demo needs results, and {app.conf.broker} stores none: add --backend URL"
            + backend_example(app.conf.broker)
        )
    try:
        look(app, _QUEUE)
        app.AsyncResult("demo").ready()
    except ServiceError as error:
        if error.code != Code.NOT_FOUND:
            raise
        command = _paste("queues", "create", _QUEUE, "--store", *_urls(target))
        raise ConfigurationError(
            f"the queue or the table is missing; create them with: {command}"
        ) from error


@contextmanager
def _stoppable() -> Generator[None]:
    """Let SIGTERM unwind the stack, so that the worker is stopped too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _introduce(app: CloudQ, files: int, processes: int, threads: int) -> None:
    say(f"{files:,} files, one task each, on {app.conf.broker}")
    each = f" with {counted(threads, 'thread')} each"
    say(f"one worker: {counted(processes, 'process', 'processes')}{each}")


def _report(app: CloudQ, done: Done, target: Target, where: Path) -> None:
    total = done.summary.get()
    members, survivors = counted(done.members, "square"), counted(done.survivors, "task")
    ran = [r for each in done.files if (r := each.final) and r.started_at and r.finished_at]
    span = max(r.finished_at or 0 for r in ran) - min(r.started_at or 0 for r in ran)
    failed = sum(record.state != State.SUCCESS for record in done.records)
    top = Counter(total.called).most_common(8)
    say("")
    fields(
        (
            ("files", f"{total.files:,}"),
            ("lines", f"{total.lines:,}"),
            ("words", f"{total.words:,}"),
            ("called most", "  ".join(f"{name} {count:,}" for name, count in top)),
            ("tasks", f"{len(done.records):,}" + (f", {failed} failed" if failed else "")),
            ("one call", f"{1000 * done.round_trip:.1f} ms from `delay` to its value (median)"),
            ("a retry", f"failed {counted(_retries(done), 'time')}, then succeeded"),
            ("a chord", f"{members}, and then their sum: {done.squares:,}"),
            (
                "a kill",
                f"a process was killed amid {survivors}: none was lost",
            ),
            ("together", f"{len(ran) / span:,.0f} files read and indexed a second"),
            ("results", app.conf.backend_url),
            ("worker's log", where / "worker.log"),
        )
    )
    urls = _urls(target)
    say("")
    say("next steps", style="bold")
    for remark, command in (
        ("the task that was retried", ("result", done.unsteady.id, *urls)),
        ("the sums", ("result", done.summary.id, *urls)),
        ("counts of the queue", ("queues", "stats", _QUEUE, *urls)),
        ("run a worker of your own", ("worker", "-A", "cloudq.cli.demo.tasks", *urls)),
    ):
        say(f"  # {remark}", style="dim")
        say(f"  {_paste(*command)}")


def _retries(done: Done) -> int:
    """Count the retries of all tasks of the job."""
    return sum(record.retries for record in done.records)


def _urls(target: Target) -> list[str]:
    options = {"broker": "-b", "backend": "--backend"}
    return [part for name, url in target.overrides.items() for part in (options[name], url)]


def _paste(*words: str) -> str:
    """Write a command line that works in this user's shell."""
    if shutil.which("cloudq"):
        start = ["cloudq"]
    elif Path(sys.argv[0]).name == "cloudq":  # called by its path
        start = [sys.argv[0]]
    else:
        start = [sys.executable, "-m", "cloudq"]
    return shlex.join([*start, *words])


def add_to(program: typer.Typer) -> None:
    """Add `demo` to the commands of `cloudq`."""
    program.command()(demo)
