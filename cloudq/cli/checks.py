"""The checks of `cloudq doctor`: each yields findings, with advice where something is wrong."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
import tomllib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import cloudq
from cloudq import settings
from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.broker.broker import Broker
from cloudq.cli.messages import backend_example
from cloudq.cli.options import Target, missing_at
from cloudq.cli.output import duration
from cloudq.cli.readers import is_cloud, nobody_reads, read_queues
from cloudq.driver import Change, Check, ConditionFailed, Item, Op, QueueStats, Sweeping
from cloudq.driver.adapters import declared
from cloudq.driver.loader import parse
from cloudq.errors import CloudQError
from cloudq.results.backend import Backend
from cloudq.results.record import key
from cloudq.settings import DECLARED, Settings
from cloudq.settings.sources import unknown_variables
from cloudq.text import describe, masked, masked_url, one_line

_EXTRA = re.compile(r"([\w.-]+).*extra == ['\"](\w+)['\"]")
# Extras that belong to no adapter.
_OWN_EXTRAS = frozenset({"dashboard"})
# Bytes that a check writes beside an embedded broker's file, and that should be left for it.
_ROOM, _LITTLE = 1 << 20, 64 << 20


class Status(StrEnum):
    """The outcome of a check; `skip` is for what cannot be checked from here."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check; `todo` says what to do about it."""

    what: str
    status: Status
    detail: str
    todo: str | None = None


def ok(what: str, detail: str) -> Finding:
    return Finding(what=what, status=Status.OK, detail=detail)


def skip(what: str, detail: str) -> Finding:
    return Finding(what=what, status=Status.SKIP, detail=detail)


def warn(what: str, detail: str, todo: str) -> Finding:
    return Finding(what=what, status=Status.WARN, detail=detail, todo=todo)


def fail(what: str, error: Exception | str) -> Finding:
    said = error if isinstance(error, str) else describe(error)
    return Finding(what=what, status=Status.FAIL, detail=said)


def installation() -> Iterator[Finding]:
    """Check the release, the Python, and the packages of the extras."""
    yield ok("cloudq", f"{cloudq.__version__} on Python {platform.python_version()}")
    for name, extras in _extras().items():
        for extra, packages in _packages(name, extras | _OWN_EXTRAS).items():
            versions = {package: _version(package) for package in packages}
            there = [f"{package} {version}" for package, version in versions.items() if version]
            if len(there) == len(packages):
                yield ok(f"extra {extra}", ", ".join(there))
            else:
                yield skip(f"extra {extra}", f'not installed: pip install "{name}[{extra}]"')


def _extras() -> dict[str, set[str]]:
    """Return the extras that installed adapters declare, by the name of their distribution."""
    found: dict[str, set[str]] = {}
    for entry, adapter in declared():
        if entry.distribution is not None:
            extras = found.setdefault(entry.distribution, set())
            if adapter.extra is not None:
                extras.add(adapter.extra)
    return found


def _packages(name: str, extras: Set[str]) -> dict[str, list[str]]:
    """Return the packages that a distribution requires for each of the extras."""
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires(name) or ():
        read = _EXTRA.match(requirement)
        if read and read[2] in extras and read[1] != name:
            found.setdefault(read[2], []).append(read[1])
    return found


def application(target: Target) -> tuple[CloudQ | None, list[Finding]]:
    """Import the app; return it, if that worked, and the findings."""
    try:
        app = target.open()
    except CloudQError as error:
        return None, [fail("app", error)]
    if target.opened is None:
        return app, [skip("app", "none given: use -A to check its tasks and queues too")]
    if not app.tasks:
        return app, [
            warn(
                "app",
                f"{target.path} has no tasks",
                "import them in its module, or use include=[...]",
            )
        ]
    names = f"{counted(len(app.tasks), 'task')}: {', '.join(sorted(app.tasks))}"
    return app, [ok("app", f"{target.path}: {names}"), *_schedules(app)]


def _schedules(app: CloudQ) -> Iterator[Finding]:
    """Check the schedules of the code and of the settings, if there are any."""
    try:
        declared = app.schedules.declared()
    except CloudQError as error:
        yield fail("schedules", error)
        return
    if declared:
        yield ok("schedules", f"{len(declared)}: {', '.join(sorted(declared))}")


def configuration(app: CloudQ, target: Target) -> Iterator[Finding]:
    """List the settings that are not defaults, with the source of each as far as known."""
    file = Path(os.environ.get("CLOUDQ_CONFIG") or "cloudq.toml")
    in_file = tomllib.loads(file.read_text()) if file.is_file() else {}
    outside = settings.load({})
    for name, field in DECLARED.items():
        value: Any = getattr(app.conf, name)
        if name in ("broker", "backend") or value != field.default:
            yield ok(
                f"setting {name}",
                f"{_shown(name, value)}, {_source(app, target, outside, name, in_file)}",
            )
    for variable, meant in unknown_variables(DECLARED).items():
        todo = f"is {meant} meant?" if meant else "no setting has this name: see the page Settings"
        yield warn(f"variable {one_line(variable)}", "not read", todo)
    if app.conf.backend is None and app.conf.backend_url:
        yield ok("results", f"stored with the broker, in {masked_url(app.conf.backend_url)}")


def broker(app: CloudQ, queues: Sequence[str] | None) -> Iterator[Finding]:
    """Check that the broker is reachable, its queues exist, and messages may be received."""
    yield from _directory("broker", app.conf.broker)
    missing = missing_at(app.conf.broker)
    if missing is not None:
        yield _absent("broker", missing)
        return
    try:
        opened = app.broker
    except CloudQError as error:
        yield fail("broker", error)
        return
    except Exception as error:  # of an SDK or of SQLite, raised while opening
        yield fail("broker", f"cannot open {masked_url(app.conf.broker)}: {describe(error)}")
        return
    for queue in queues or app.queues():
        yield from _queue(opened, queue)
    yield skip("send", "not tried, since it would leave a message: `cloudq call TASK` tries it")


def backend(app: CloudQ) -> Iterator[Finding]:
    """Check that the result store is reachable, and its table can be read and written."""
    url = app.conf.backend_url
    if url is None:
        yield warn(
            "backend",
            "none: results and states are not stored, idempotency is off",
            "set CLOUDQ_BACKEND or --backend" + backend_example(app.conf.broker),
        )
        return
    if url != app.conf.broker:
        yield from _directory("backend", url)
    missing = missing_at(url)
    if missing is not None:
        if url != app.conf.broker:
            yield _absent("backend", missing)
        return
    try:
        opened = app.backend
    except CloudQError as error:
        yield fail("backend", error)
        return
    except Exception as error:  # as for the broker
        yield fail("backend", f"cannot open {masked_url(url)}: {describe(error)}")
        return
    assert opened is not None
    try:
        opened.record("cloudq-doctor")
        yield ok("backend read", f"{masked_url(url)} exists and can be read")
    except CloudQError as error:
        yield fail("backend read", error)
        return
    yield _store_write(opened)
    yield from _store_expiry(opened)


def _store_write(opened: Backend) -> Finding:
    try:
        if not opened.driver.limits.billed:
            # It costs nothing to write, so a full disk is found.
            trial = Item(key=key("cloudq-doctor"), fields={"state": "trial"}, expires=time.time())
            failures = opened.put([trial])
            if failures:
                return fail("backend write", failures[0].reason)
            opened.delete([trial.key])
            return ok("backend write", "allowed (an item was written and deleted)")
        # A change whose condition never holds needs write permission, and writes nothing.
        never = Change(set={"state": "x"}, when=(Check(field="state", op=Op.EQ, value="never"),))
        opened.update(key("cloudq-doctor"), never)
    except ConditionFailed:
        return ok("backend write", "allowed (tried with an update whose condition never holds)")
    except CloudQError as error:
        return fail("backend write", error)
    return ok("backend write", "allowed")


def _store_expiry(opened: Backend) -> Iterator[Finding]:
    if isinstance(opened.driver, Sweeping):
        yield skip(
            "backend expiry",
            "this store keeps expired results: run `cloudq sweep` once a day",
        )
    elif opened.driver.limits.billed:
        yield skip(
            "backend expiry",
            "not checked: `queues create --store` turns it on; without it expired results are "
            "hidden, but stay and are billed",
        )


def _queue(opened: Broker, queue: str) -> Iterator[Finding]:
    what = f"queue {queue}"
    try:
        with opened.asking("look at", queue) as admin:
            stats = admin.stats(queue)
    except CloudQError as error:
        yield fail(what, error)
        return
    yield ok(what, _counts(stats))
    if stats.dead is None and stats.dead_queue is None:
        yield warn(
            f"{what}, dead letters",
            "it has no dead-letter queue",
            "messages that keep failing have nowhere to go: `cloudq queues create` makes one",
        )
    elif stats.dead:
        yield warn(
            f"{what}, dead letters", f"{stats.dead}", f"`cloudq dead list {queue}` shows why"
        )
    if stats.oldest_age is not None and stats.oldest_age > 3600:
        yield warn(
            what, f"its oldest message is {duration(stats.oldest_age)} old", "is a worker running?"
        )
    yield _receive(opened, queue, stats.ready)


def readers(app: CloudQ, queues: Sequence[str] | None) -> Iterator[Finding]:
    """Check that a live worker reads each queue; that functions do cannot be seen from here."""
    url = app.conf.backend_url
    if url is None or missing_at(url) is not None:
        return
    for queue in queues or app.queues():
        remark = nobody_reads(app, queue)
        what = f"workers of {queue}"
        if read_queues(app) is None:
            yield skip(what, "not known: the heartbeats of workers cannot be read")
        elif remark is None:
            yield ok(what, "a live worker reads it")
        elif is_cloud(app):
            yield skip(what, remark)
        else:
            reason, _, todo = remark.partition(": ")
            yield warn(what, reason, todo)


def _counts(stats: QueueStats) -> str:
    counts = {"ready": stats.ready, "delayed": stats.delayed, "running": stats.leased}
    known = [f"{count} {name}" for name, count in counts.items() if count is not None]
    return ", ".join(known) or "exists; this service does not report counts"


def _receive(opened: Broker, queue: str, ready: int | None) -> Finding:
    what = f"receive from {queue}"
    if ready != 0:
        waiting = "messages may be waiting" if ready is None else "messages are waiting"
        return skip(what, f"not tried: {waiting}, and each receive counts as a delivery")
    try:
        deliveries = opened.receive(queue, count=1, wait=0.0, lease=1.0)
        opened.release(deliveries)
    except CloudQError as error:
        return fail(what, error)
    return ok(what, "allowed (tried on the empty queue)")


def _directory(what: str, url: str) -> Iterator[Finding]:
    try:
        address = parse(url)
    except CloudQError:
        return  # opening it reports the same error
    if address.scheme != "sqlite" or not address.path:
        return
    file = Path(address.path).absolute()
    try:
        has_folder, is_there = file.parent.is_dir(), file.exists()
    except OSError:  # of a name that is too long, or a loop of links
        return  # as above
    if not has_folder:
        yield fail(
            f"{what} file", f"folder {file.parent} does not exist: create it, or change {url}"
        )
    elif not os.access(file.parent, os.W_OK) or (is_there and not os.access(file, os.W_OK)):
        yield fail(f"{what} file", f"{file} or its folder is not writable by this user")
    else:
        yield _space(f"{what} file", file)


def _absent(what: str, missing: str) -> Finding:
    """Say that a file is not there; to open it would make it."""
    detail, _, todo = missing.partition(": ")
    return warn(what, detail, todo)


def _space(what: str, file: Path) -> Finding:
    """Check that the file can grow: its disk is not full, and no quota has been reached."""
    try:
        with TemporaryFile(dir=file.parent) as trial:
            # As a write-ahead log grows: really written, and gone when it is closed.
            trial.write(bytes(_ROOM))
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        why = f"{error.strerror}: free some space on the disk of {file.parent}"
        return fail(what, f"{file} cannot grow: {why}")
    left = shutil.disk_usage(file.parent).free
    if left < _LITTLE:
        todo = "free some space: when the disk is full, nothing is sent and no result is stored"
        return warn(what, f"{file}: {left >> 20} MiB are left on its disk", todo)
    return ok(what, str(file))


def _source(
    app: CloudQ, target: Target, outside: Settings, name: str, in_file: dict[str, Any]
) -> str:
    if name in target.overrides:
        return "from the command line"
    if name not in app.conf.given:
        return "the default"
    if getattr(app.conf, name) != getattr(outside, name):
        return "set by the app"
    variable = f"CLOUDQ_{name.upper()}"
    if any(given.upper() == variable for given in os.environ):
        return f"from {variable}"
    return "from the configuration file" if name in in_file else "set by the app"


def _shown(name: str, value: Any) -> str:
    # Its patterns name secrets, and are none.
    hidden = value if name == "redact" else masked({name: value})[name]
    return repr(str(hidden) if isinstance(hidden, str) else hidden)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
