"""Workers as their last heartbeats show them, what they run, and what they can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from cloudq.app import CloudQ
from cloudq.errors import ConfigurationError
from cloudq.messages.json_text import is_list, is_object
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.operations.audit import Actor, write


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """A task that runs in a worker since `since` (epoch seconds)."""

    id: str
    task: str
    since: float
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker as of its last heartbeat. Times are epoch seconds; `slots` is how much it can run.

    `longest` names those of its `running` tasks that have run longest, at most five.
    """

    name: str
    alive: bool
    app: str
    pid: int
    version: str
    started: float
    seen: float
    every: float
    processes: int
    threads: int
    running: int
    waiting: int
    done: int
    failed: int
    queues: Sequence[str]
    longest: Sequence[RunningTask]

    @property
    def slots(self) -> int:
        """The tasks that it can run at a time."""
        return self.processes * self.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDetail:
    """The reply of a worker about itself: its `stats` and `active` tasks, None without a reply."""

    worker: WorkerRow
    stats: Mapping[str, Any] | None = None
    active: Sequence[Mapping[str, Any]] | None = None

    @property
    def memory(self) -> int | None:
        """Bytes of memory of the worker and its processes."""
        usage: Any = (self.stats or {}).get("rusage")
        if not is_object(usage):
            return None
        sizes = (usage.get("maxrss"), usage.get("children_rss"))
        return sum(size for size in sizes if isinstance(size, int))


def workers(app: CloudQ) -> list[WorkerRow]:
    """Show all workers of the store by name, also those that are silent for up to 15 minutes.

    One query for each hundred. Raises `BackendError`, and `ConfigurationError` without a store.
    """
    now = app.runtime.clock()
    rows = [worker_of(heart, now) for heart in app.control.heartbeats.all()]
    return sorted(rows, key=attrgetter("name"))


def running(rows: Sequence[WorkerRow]) -> list[RunningTask]:
    """Return the tasks that have run longest in the live ones of these workers."""
    found = [task for row in rows if row.alive for task in row.longest]
    return sorted(found, key=attrgetter("since"))


def detail(app: CloudQ, name: str, *, timeout: float | None = None) -> WorkerDetail:
    """Ask one worker for its numbers and tasks; it replies at its next heartbeat.

    Raises `ConfigurationError` if no worker of this name lives.
    """
    row = _living(app, name)
    stats = app.control.call("stats", destination=[name], timeout=timeout).get(name)
    active = None
    if stats is not None:
        active = app.control.call("active", destination=[name], timeout=timeout).get(name)
    return WorkerDetail(worker=row, stats=stats, active=active)


def tell(
    app: CloudQ,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    by: Actor,
    worker: str | None = None,
    timeout: float | None = 0.0,
) -> dict[str, Any]:
    """Send a control command to one worker or all, and return the replies that come in time.

    With a `timeout` of 0 it is only sent. Raises `ConfigurationError` for an unknown command, or
    if no such worker lives.
    """
    spec = app.control.registry.find(command)
    if spec.kind != "control":
        raise ConfigurationError(f"{command} is not a command of control")
    if worker is not None:
        _living(app, worker)
    destination = None if worker is None else [worker]
    replies = app.control.call(
        command, arguments, destination=destination, reply=timeout != 0, timeout=timeout or None
    )
    log_told(app, command, arguments or {}, replies, by=by, workers=destination)
    return replies


def log_told(
    app: CloudQ,
    command: str,
    arguments: Mapping[str, Any],
    replies: Mapping[str, Any],
    *,
    by: Actor,
    workers: Sequence[str] | None,
) -> None:
    """Write into the audit log that these workers, or all, were sent a command."""
    words = " ".join(f"{name}={_word(value)}" for name, value in arguments.items())
    names = "all workers" if workers is None else ", ".join(workers)
    write(app, by, command, f"{names} {words}".strip(), outcome=_outcome(replies))


def shutdown(app: CloudQ, name: str, *, by: Actor) -> None:
    """Stop a worker after its running tasks. Raises as `tell`."""
    tell(app, "shutdown", by=by, worker=name)


def worker_of(heart: Heartbeat, now: float) -> WorkerRow:
    """Return the row of a heartbeat."""
    return WorkerRow(
        name=heart.hostname,
        alive=heart.alive(now),
        app=heart.app,
        pid=heart.pid,
        version=heart.version,
        started=heart.started,
        seen=heart.seen,
        every=heart.every,
        processes=heart.processes,
        threads=heart.threads,
        running=heart.running,
        waiting=heart.waiting,
        done=heart.done,
        failed=heart.failed,
        queues=tuple(heart.queues),
        longest=tuple(_running_in(heart)),
    )


def _running_in(heart: Heartbeat) -> list[RunningTask]:
    found: list[RunningTask] = []
    for entry in heart.longest:
        if len(entry) == 3 and isinstance(entry[2], int | float):
            id, task, since = str(entry[0]), str(entry[1]), float(entry[2])
            found.append(RunningTask(id=id, task=task, since=since, worker=heart.hostname))
    return found


def _living(app: CloudQ, name: str) -> WorkerRow:
    living = [row for row in workers(app) if row.alive]
    for row in living:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in living) or "none"
    raise ConfigurationError(f"no live worker {name}; live workers: {known}")


def _outcome(replies: Mapping[str, Any]) -> str:
    errors = [
        f"{name}: {reply['error']}"
        for name, reply in replies.items()
        if is_object(reply) and "error" in reply
    ]
    return "; ".join(errors) or "done"


def _word(value: object) -> str:
    return ",".join(map(str, value)) if is_list(value) else str(value)
