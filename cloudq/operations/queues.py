"""Queues as an operator sees and changes them: numbers, messages, purges, pauses, deletions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cloudq.app import CloudQ
from cloudq.broker.purge import purge_delayed
from cloudq.driver import Code, Purged, QueueStats
from cloudq.driver.adapters import adapter
from cloudq.driver.log import Log
from cloudq.errors import BrokerError, CloudQError, ConfigurationError
from cloudq.execution.side_by_side import side_by_side
from cloudq.monitoring import commands
from cloudq.monitoring.queue_pauses import Pause, QueuePauses
from cloudq.operations.audit import Actor, write
from cloudq.operations.seen import Seen, read
from cloudq.tasks.limits.unique import note_purged

log = Log("cloudq.operations")

MOST_DELAYED = 1000
"""Delayed messages in the result store are counted up to this number."""
FUNCTIONS_GO_ON = (
    "functions that a platform starts for this queue are not paused: disable their trigger"
)
# Seconds for which a worker that was cut off still obeys a pause.
_OBEYED = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """The numbers of a queue; None where the service does not tell.

    `running` messages are leased, `oldest_age` is in seconds, `dead` counts its dead letters,
    which lie in `dead_queue` if that is a queue of its own. Numbers that are not `exact` lag.
    `problem` says why a queue could not be looked at.
    """

    queue: str
    ready: int | None = None
    running: int | None = None
    delayed: int | None = None
    dead: int | None = None
    oldest_age: float | None = None
    dead_queue: str | None = None
    exact: bool = False
    pause: Pause | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeDone:
    """A purge: `deleted` messages (None: the service does not tell), `delayed` ones besides.

    All are gone `settles` seconds later.
    """

    queue: str
    deleted: int | None
    delayed: int = 0
    settles: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseDone:
    """A pause or its end: the live workers that were told, and what it does not reach.

    `changed` is False where the queue was in that state already.
    """

    queue: str
    paused: bool
    changed: bool
    workers: Sequence[str]
    notes: Sequence[str] = ()


def queue_names(app: CloudQ, prefix: str = "") -> list[str]:
    """List the broker's queues, without dead-letter queues. Raises `BrokerError`."""
    with app.broker.asking("list the queues that match", prefix or "*") as admin:
        return list(admin.list(prefix))


def own_queues(app: CloudQ) -> list[str]:
    """List the app's queues; those of an embedded broker are all its own. Raises `BrokerError`."""
    own = app.queues()
    if app.broker.limits(own[0]).billed:
        return own
    used = queue_names(app)
    named = [name for name in own if name in used or len(own) > 1 or not used]
    return sorted({*named, *used})


def queues(
    app: CloudQ, names: Sequence[str] | None = None, *, known: bool = False
) -> list[QueueRow]:
    """Look at queues, by default the app's. A queue that cannot be looked at has its `problem`.

    `known` says that the names are those of queues that are there. Costs what `queue` costs for
    each, and a query for their pauses, which are not told while the store is down.
    """
    chosen = own_queues(app) if names is None else list(names)
    known = known or names is None
    paused = known_pauses(app)
    billed = bool(chosen) and app.broker.limits(chosen[0]).billed
    rows = side_by_side(partial(_row_or_problem, app, known), chosen, billed=billed)
    return [replace(row, pause=paused.get(row.queue)) for row in rows]


def queue(app: CloudQ, name: str) -> QueueRow:
    """Look at one queue. Raises `BrokerError`, `BackendError`, also for one that is not there."""
    return row_of(app, name, known_pauses(app))


def row_of(app: CloudQ, name: str, paused: Mapping[str, Pause]) -> QueueRow:
    """Look at one queue, whose pauses are known. Raises as `queue`."""
    return replace(_row(look(app, name)), pause=paused.get(name))


def look(app: CloudQ, name: str, *, known: bool = False) -> QueueStats:
    """Return a queue's stats, including delayed messages kept in the backend.

    Unless it is `known` to be there, an embedded broker is asked whether it is, if it is empty.
    Raises `BrokerError` and `BackendError`.
    """
    with app.broker.asking("look at", name) as admin:
        stats = admin.stats(name)
    if app.broker.stores_delayed(name):
        parked = len(app.broker.scheduled(name, count=MOST_DELAYED))
        stats = replace(stats, delayed=(stats.delayed or 0) + parked)
    if (
        not known
        and stats.exact
        and not any((stats.ready, stats.delayed, stats.leased, stats.dead))
    ):
        require_known(app, name)
    return stats


def _row_or_problem(app: CloudQ, known: bool, name: str) -> QueueRow:
    try:
        return _row(look(app, name, known=known))
    except CloudQError as error:
        return QueueRow(queue=name, problem=str(error))


def _row(stats: QueueStats) -> QueueRow:
    return QueueRow(
        queue=stats.queue,
        ready=stats.ready,
        running=stats.leased,
        delayed=stats.delayed,
        dead=stats.dead,
        oldest_age=stats.oldest_age,
        dead_queue=stats.dead_queue,
        exact=stats.exact,
    )


def require_known(app: CloudQ, name: str) -> None:
    """Raise `BrokerError` for a queue of an embedded broker that was never made, used or named.

    Such a broker makes a queue at its first message, and shows any other as empty. The clouds
    know theirs.
    """
    if app.broker.limits(name).billed:
        return
    known = sorted({*queue_names(app), *app.queues()})
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        text = (
            f"there is no queue {name!r} on {app.conf.broker}: {meant}"
            '"cloudq queues list" shows all, "cloudq queues create NAME" makes one'
        )
        raise BrokerError(text, code=Code.NOT_FOUND)


def peek(app: CloudQ, name: str, *, count: int = 10) -> list[Seen]:
    """Look at waiting messages without taking them. Raises `BrokerError`."""
    with app.broker.asking("look into", name) as admin:
        peeked = admin.peek(name, count=count)
    if not peeked:
        require_known(app, name)
    return [read(each, app, name) for each in peeked]


def peek_cost(app: CloudQ) -> str | None:
    """Say what showing messages costs on this broker; None where it costs nothing."""
    return adapter(app.conf.broker).peek_cost


# ---- actions


def purge(app: CloudQ, name: str, *, by: Actor) -> PurgeDone:
    """Delete all messages of a queue, running and delayed ones too; dead letters stay.

    Raises `BrokerError` and `BackendError`.
    """
    look(app, name)  # a queue that is not there is told
    at = app.runtime.clock()
    with app.broker.asking("purge", name) as admin:
        purged: Purged = admin.purge(name)
    delayed = purge_delayed(app.broker, name)
    if app.backend is not None:
        note_purged(app.backend, name, at)
    write(app, by, "purge", f"queue {name}", count=purged.count)
    return PurgeDone(queue=name, deleted=purged.count, delayed=delayed, settles=purged.settles)


def delete(app: CloudQ, name: str, *, by: Actor) -> QueueRow:
    """Delete a queue with its messages and its dead letters; return the numbers it had.

    Raises `BrokerError` and `BackendError`.
    """
    before = _row(look(app, name))
    with app.broker.asking("delete", name) as admin:
        admin.delete(name)
    purge_delayed(app.broker, name)
    if app.backend is not None:
        QueuePauses(app.backend).remove(name)
    write(app, by, "delete", f"queue {name}", count=before.ready)
    return before


def pauses(app: CloudQ) -> dict[str, Pause]:
    """Read the pauses of queues, by name. One query; none without a store."""
    return {} if app.backend is None else QueuePauses(app.backend).all()


def known_pauses(app: CloudQ) -> dict[str, Pause]:
    """Read the pauses as `pauses` does; none where the store does not answer, or may not be read.

    It hides no queue: who looks at one may have no right to the store.
    """
    try:
        return pauses(app)
    except CloudQError as error:
        log.info("it is not known which queues are paused: %s", error)
        return {}


def pause(app: CloudQ, name: str, *, by: Actor) -> PauseDone:
    """Keep workers from receiving from a queue until `resume`, also those that start later.

    A worker heeds it at its next heartbeat, and ends what it has received. The pause lies in the
    result store, for every app that shares it. Raises `ConfigurationError` without a store,
    `BrokerError` and `BackendError`.
    """
    look(app, name)
    mark = Pause(queue=name, at=app.runtime.clock(), by=by.who)
    before = QueuePauses(app.control.backend).add(mark)
    told = _tell(app, name)
    write(app, by, "pause", f"queue {name}", count=len(told))
    return PauseDone(
        queue=name, paused=True, changed=before is None, workers=told, notes=(FUNCTIONS_GO_ON,)
    )


def resume(app: CloudQ, name: str, *, by: Actor) -> PauseDone:
    """Let workers receive from a queue again. Raises as `pause`."""
    changed = QueuePauses(app.control.backend).remove(name)
    if not changed:
        require_known(app, name)
    told = _tell(app, name)
    write(app, by, "resume", f"queue {name}", count=len(told))
    return PauseDone(queue=name, paused=False, changed=changed, workers=told)


def _tell(app: CloudQ, name: str) -> list[str]:
    """Tell the live workers that receive from the queue; return their names."""
    hearts = app.control.heartbeats
    concerned = [heart for heart in hearts.alive() if name in heart.queues]
    made = commands.make("heed_pauses", {}, lasts=_OBEYED, reply=False)
    return [heart.hostname for heart in commands.send(hearts, concerned, made)]


def require_store(app: CloudQ) -> None:
    """Raise `ConfigurationError` for an app without a result store, which its actions need."""
    if app.backend is None:
        raise ConfigurationError(
            "this app has no result store, which keeps what operators see and do: "
            "set CloudQ(backend=...) or CLOUDQ_BACKEND"
        )
