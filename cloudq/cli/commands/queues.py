"""`cloudq queues`: lists, inspects, creates and empties queues."""

from __future__ import annotations

import difflib
from dataclasses import asdict, replace
from typing import Annotated

import typer

from cloudq.app import CloudQ
from cloudq.app.near import near_queue
from cloudq.broker.deliveries import queue_deliveries
from cloudq.broker.purge import purge_delayed
from cloudq.cli.messages import as_json, list_messages, read
from cloudq.cli.options import JsonOption, Target, YesOption, chosen_queues, common
from cloudq.cli.output import confirm, duration, emit, note, say, table
from cloudq.driver import Code, Purged, QueueStats, StoreAdmin
from cloudq.driver.adapters import adapter
from cloudq.errors import BackendError, BrokerError, CloudQError, ConfigurationError
from cloudq.results.backend import Backend
from cloudq.tasks.limits.unique import note_purged

cli = typer.Typer(no_args_is_help=True, help="List, inspect, create and empty queues.")

# Delayed messages in the result store are counted up to this number.
_MOST_COUNTED = 1000

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]


@cli.command("list")
@common
def list_queues(
    target: Target,
    prefix: Annotated[str, typer.Argument(help="List only names that start with this.")] = "",
    json: JsonOption = False,
) -> None:
    """List the broker's queues, without dead-letter queues."""
    app = target.open()
    with app, app.broker.asking("list the queues", prefix or "*") as admin:
        names = list(admin.list(prefix))
    if json:
        emit(names)
        return
    for name in names:
        say(name)
    if not names:
        note(f"no queues{f' that start with {prefix!r}' if prefix else ''} on {app.conf.broker}")


@cli.command()
@common
def stats(
    target: Target,
    queues: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUEUE", help="Queues to show. Default: the app's."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the message counts of queues."""
    app = target.open()
    with app:
        found = [look(app, queue) for queue in chosen_queues(target, app, queues)]
    if json:
        emit([asdict(each) for each in found])
        return
    columns = ["QUEUE", "READY", "DELAYED", "RUNNING", "DEAD", "OLDEST"]
    rows = [
        [each.queue, each.ready, each.delayed, each.leased, each.dead, duration(each.oldest_age)]
        for each in found
    ]
    if any(each.dead_queue for each in found):
        columns.append("DEAD LETTERS IN")
        rows = [[*row, each.dead_queue] for row, each in zip(rows, found, strict=True)]
    table(columns, rows, empty="no queues")
    if any(each.ready is None for each in found):
        note("this service does not report message counts: see its monitoring")
    elif not all(each.exact for each in found):
        note("the service's counts are approximate and lag by up to a minute")


@cli.command()
@common
def peek(
    target: Target,
    queue: QueueArgument,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to show.")
    ] = 10,
    json: JsonOption = False,
) -> None:
    """Show waiting messages without removing them."""
    app = target.open()
    with app:
        with app.broker.asking("look into", queue) as admin:
            peeked = admin.peek(queue, count=count)
        if not peeked:
            check_known(app, queue)
        messages = [read(each, app, queue) for each in peeked]
    if json:
        emit([as_json(seen) for seen in messages])
        return
    list_messages(messages, dead=False, empty=f"no messages waiting in {queue!r}")
    looking(app)


@cli.command()
@common
def purge(target: Target, queue: QueueArgument, yes: YesOption = False) -> None:
    """Delete all messages of a queue.

    This includes running and delayed messages. Dead letters are kept.
    """
    app = target.open()
    with app:
        before = look(app, queue)
        counts = (before.ready, before.delayed, before.leased)
        known = sum(count or 0 for count in counts)
        confirm(
            f"Delete {'' if before.exact else 'about '}{known} messages in {queue!r} "
            f"on {app.conf.broker}{f', {before.leased} of which run now' * bool(before.leased)}?",
            queue,
            yes=yes,
        )
        at = app.runtime.clock()
        with app.broker.asking("purge", queue) as admin:
            purged = admin.purge(queue)
        parked = purge_delayed(app.broker, queue)
        if app.backend is not None:
            note_purged(app.backend, queue, at)
    tell_purged(purged, queue)
    if parked:
        say(f"deleted {parked} delayed messages of {queue!r} in {app.conf.backend_url}")


@cli.command()
@common
def create(
    target: Target,
    queues: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUEUE", help="Queues to create. Default, with -A: the app's."),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Default lease time of the queues."),
    ] = None,
    max_deliveries: Annotated[
        int | None,
        typer.Option(
            min=1, help="Dead-letter a message after this many. Default: more than the app allows."
        ),
    ] = None,
    store: Annotated[
        bool,
        typer.Option("--store", "--table", help="Also create the table of the result backend."),
    ] = False,
) -> None:
    """Create queues with their dead-letter queues.

    Existing queues are left unchanged.
    """
    app = target.open()
    names = list(queues or (app.queues() if target.path else ()))
    if not names and not store:
        raise ConfigurationError(
            "no queues given: name the queues to create, or use -A for those of an app"
        )
    conf = app.conf
    with app:
        for name in names:
            with app.broker.asking("create", name) as admin:
                admin.create(
                    name,
                    lease=conf.lease if lease is None else lease,
                    max_deliveries=max_deliveries
                    or queue_deliveries(
                        conf.max_deliveries, ordered=app.broker.limits(name).ordered
                    ),
                )
            say(f"Created queue {name!r} with a dead-letter queue on {conf.broker}")
        if store:
            say(_create_store(app.backend))


def look(app: CloudQ, queue: str) -> QueueStats:
    """Return a queue's stats, including delayed messages kept in the backend.

    Raises `BrokerError` and `BackendError`.
    """
    with app.broker.asking("look at", queue) as admin:
        stats = admin.stats(queue)
    if app.broker.stores_delayed(queue):
        parked = len(app.broker.scheduled(queue, count=_MOST_COUNTED))
        stats = replace(stats, delayed=(stats.delayed or 0) + parked)
    if stats.exact and not any((stats.ready, stats.delayed, stats.leased, stats.dead)):
        check_known(app, queue)
    return stats


def check_known(app: CloudQ, queue: str) -> None:
    """Raise `BrokerError` for a queue of an embedded broker that was never made, used or named.

    Such a broker makes a queue at its first message, and shows any other as empty. The clouds
    know theirs.
    """
    if app.broker.limits(queue).billed:
        return
    with app.broker.asking("list the queues", "*") as admin:
        known = sorted({*admin.list(), *app.queues()})
    if queue not in known:
        close = difflib.get_close_matches(queue, known, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        text = (
            f"there is no queue {queue!r} on {app.conf.broker}: {meant}"
            '"cloudq queues list" shows all, "cloudq queues create NAME" makes one'
        )
        raise BrokerError(text, code=Code.NOT_FOUND)


def unread(app: CloudQ, queue: str) -> str | None:
    """Say that nobody reads this queue, as far as can be seen; None where somebody may.

    An embedded broker makes a queue at its first message. The clouds refuse one that they do not
    have.
    """
    own = {*app.queues(), *app.queues(priorities=False)}
    if queue in own or app.broker.limits(queue).billed:
        return None
    with app.broker.asking("list the queues", "*") as admin:
        used = admin.list()
    read = _read_by_workers(app)
    if queue in read:
        return None
    meant = near_queue(queue, own | read)
    if meant is not None:
        return f"no task has the queue {queue!r} and no live worker reads it: is {meant!r} meant?"
    if queue in used:
        return None
    return f"the queue {queue!r} is new and no worker reads it: start one with -Q {queue}"


def _read_by_workers(app: CloudQ) -> set[str]:
    try:
        return {queue for heart in app.control.heartbeats.alive() for queue in heart.queues}
    except CloudQError:  # no store, or none that may be asked: a remark is not worth an error
        return set()


def looking(app: CloudQ) -> None:
    """Print a note if showing messages has a cost on this broker."""
    remark = adapter(app.conf.broker).peek_cost
    if remark:
        note(remark)


def tell_purged(purged: Purged, queue: str) -> None:
    """Print the outcome of a purge."""
    count = "all" if purged.count is None else str(purged.count)
    if not purged.settles:
        say(f"deleted {count} messages in {queue!r}")
        return
    say(
        f"deleting {'' if purged.count is None else 'about '}{count} messages in {queue!r}: "
        f"this takes up to {purged.settles:g} s"
    )
    note("messages that run or arrive meanwhile are deleted too")


def _create_store(backend: Backend | None) -> str:
    if backend is None:
        raise ConfigurationError("no result backend to create a table for: add --backend URL")
    driver = backend.driver
    if not isinstance(driver, StoreAdmin):
        return f"{backend.url} creates its own tables"
    try:
        driver.create_store()
    except CloudQError:
        raise
    except Exception as error:
        code = driver.error_code(error)
        raise BackendError(
            f"cannot create the table of {backend.url}: {error}", code=code
        ) from error
    return f"Created the table of {backend.url}"


def add_to(program: typer.Typer) -> None:
    """Add `queues` and its commands to those of `cloudq`."""
    program.add_typer(cli, name="queues")
