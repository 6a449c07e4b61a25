"""`cloudq queues`: lists, inspects, creates, pauses, empties and deletes queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.app.near import near_queue
from cloudq.broker.deliveries import queue_deliveries
from cloudq.cli.messages import list_messages
from cloudq.cli.options import (
    JsonOption,
    Target,
    YesOption,
    chosen_queues,
    common,
    refuse_memory,
    require_file,
)
from cloudq.cli.output import complain, confirm, duration, emit, local, note, say, table
from cloudq.driver import StoreAdmin
from cloudq.errors import BackendError, CloudQError, ConfigurationError
from cloudq.operations import queues as operations
from cloudq.operations.audit import local_actor
from cloudq.operations.queues import PauseDone, PurgeDone, QueueRow
from cloudq.results.backend import Backend
from cloudq.text import iso_time

cli = typer.Typer(
    no_args_is_help=True, help="List, inspect, create, pause, empty and delete queues."
)

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]


@cli.command("list")
@common
def list_queues(
    target: Target,
    prefix: Annotated[str, typer.Argument(help="List only names that start with this.")] = "",
    names: Annotated[
        bool, typer.Option("--names", help="Print names alone, one a line, for scripts.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the broker's queues with their numbers, without dead-letter queues.

    Makes a few requests for each queue; --names makes one in all.
    """
    app = target.open()
    require_file(app)
    with app:
        found = operations.queue_names(app, prefix)
        rows = [] if names else operations.queues(app, found, known=True)
    if names:
        if json:
            emit(found)
            return
        for name in found:
            say(name)
    elif json:
        emit([row_json(row) for row in rows])
        return
    elif rows:
        show_rows(rows)
    if not found:
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
    """Show the message counts of these queues."""
    app = target.open()
    require_file(app)
    with app:
        paused = operations.known_pauses(app)
        rows = [
            operations.row_of(app, queue, paused) for queue in chosen_queues(target, app, queues)
        ]
    if json:
        emit([row_json(row) for row in rows])
        return
    show_rows(rows)


def show_rows(rows: Sequence[QueueRow]) -> None:
    """Print queues with their numbers."""
    columns = ["QUEUE", "READY", "RUNNING", "DELAYED", "DEAD", "OLDEST"]
    cells: list[list[object]] = [
        [row.queue, row.ready, row.running, row.delayed, row.dead, duration(row.oldest_age)]
        for row in rows
    ]
    if any(row.pause for row in rows):
        columns.append("STATE")
        cells = [[*cell, _paused(row)] for cell, row in zip(cells, rows, strict=True)]
    if any(row.dead_queue for row in rows):
        columns.append("DEAD LETTERS IN")
        cells = [[*cell, row.dead_queue] for cell, row in zip(cells, rows, strict=True)]
    table(columns, cells, empty="no queues")
    for row in rows:
        if row.problem:
            complain(row.problem, kind=row.queue)
    known = [row for row in rows if not row.problem]
    if any(row.ready is None for row in known):
        note("this service does not report message counts: see its monitoring")
    elif not all(row.exact for row in known):
        note("the service's counts are approximate and lag by up to a minute")


def row_json(row: QueueRow) -> dict[str, object]:
    """Return a queue as plain JSON."""
    plain: dict[str, object] = asdict(row)
    if row.pause is not None:
        plain["pause"] = {"at": iso_time(row.pause.at), "by": row.pause.by}
    return plain


def _paused(row: QueueRow) -> str | None:
    if row.pause is None:
        return None
    return f"paused by {row.pause.by}, {local(row.pause.at)}"


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
    require_file(app)
    with app:
        messages = operations.peek(app, queue, count=count)
    if json:
        emit([seen.as_json() for seen in messages])
        return
    list_messages(messages, dead=False, empty=f"no messages waiting in {queue!r}")
    if remark := operations.peek_cost(app):
        note(remark)


@cli.command()
@common
def purge(
    target: Target, queue: QueueArgument, yes: YesOption = False, json: JsonOption = False
) -> None:
    """Delete all messages of a queue.

    This includes running and delayed messages. Dead letters are kept.
    """
    app = target.open()
    require_file(app)
    with app:
        before = operations.queue(app, queue)
        confirm(f"Delete {_held(before)} on {app.conf.broker}?", queue, yes=yes)
        done = operations.purge(app, queue, by=local_actor())
    if json:
        emit(asdict(done))
        return
    tell_purged(done, "message", f"in {queue!r}")
    if done.delayed:
        say(f"deleted {done.delayed} delayed messages of {queue!r} in {app.conf.backend_url}")


def tell_purged(done: PurgeDone, noun: str, where: str) -> None:
    """Print the outcome of a purge of what the noun says, say of messages in a queue."""
    count = f"all {noun}s" if done.deleted is None else counted(done.deleted, noun)
    if not done.settles:
        say(f"deleted {count} {where}")
        return
    about = "" if done.deleted is None else "about "
    say(f"deleting {about}{count} {where}: this takes up to {done.settles:g} s")
    note("messages that run or arrive meanwhile are deleted too")


def _held(row: QueueRow) -> str:
    known = sum(count or 0 for count in (row.ready, row.delayed, row.running))
    runs = f", {row.running} of which run now" if row.running else ""
    return f"{'' if row.exact else 'about '}{counted(known, 'message')} in {row.queue!r}{runs}"


@cli.command()
@common
def delete(
    target: Target,
    queues: Annotated[list[str], typer.Argument(metavar="QUEUE", help="Queues to delete.")],
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete queues with their messages and their dead letters."""
    app = target.open()
    require_file(app)
    with app:
        rows = [operations.queue(app, queue) for queue in dict.fromkeys(queues)]
        for row in rows:
            dead = f" and {counted(row.dead, 'dead letter')}" if row.dead else ""
            question = f"Delete the queue {row.queue!r} on {app.conf.broker}, with {_held(row)}"
            confirm(f"{question}{dead}?", row.queue, yes=yes)
            operations.delete(app, row.queue, by=local_actor())
            if not json:
                say(f"deleted the queue {row.queue!r}")
    if json:
        emit([row_json(row) for row in rows])


@cli.command()
@common
def pause(target: Target, queue: QueueArgument, json: JsonOption = False) -> None:
    """Keep workers from receiving from a queue until `resume`.

    Tasks that were received end. Workers that start later heed it too. Functions that a platform
    starts for the queue are not paused.
    """
    app = _with_store(target)
    with app:
        done = operations.pause(app, queue, by=local_actor())
    _tell_pause(done, json=json)


@cli.command()
@common
def resume(target: Target, queue: QueueArgument, json: JsonOption = False) -> None:
    """Let workers receive from a paused queue again."""
    app = _with_store(target)
    with app:
        done = operations.resume(app, queue, by=local_actor())
    _tell_pause(done, json=json)


def _with_store(target: Target) -> CloudQ:
    app = target.open()
    refuse_memory(app)
    require_file(app)
    return app


def _tell_pause(done: PauseDone, *, json: bool) -> None:
    if json:
        emit(asdict(done))
        return
    state = "paused" if done.paused else "resumed"
    if done.changed:
        say(f"{done.queue} is {state}")
    else:
        say(f"{done.queue} is paused already" if done.paused else f"{done.queue} was not paused")
    if done.workers:
        count = len(done.workers)
        note(f"{count} live worker{'s' * (count != 1)} told, heeded at the next heartbeat")
    for remark in done.notes:
        note(remark)


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
        typer.Option(
            "--store",
            "--table",
            help="Also create the table of the result backend, and the bucket of payload_store.",
        ),
    ] = False,
) -> None:
    """Create queues with their dead-letter queues.

    Existing queues are left unchanged.
    """
    app = target.open()
    names = list(queues or (app.queues() if target.opened else ()))
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
            payloads = app.runtime.payloads()
            if payloads is not None and payloads.create(expires=conf.payload_expires):
                say(f"Created the place of payloads {payloads.url}")


def unread(app: CloudQ, queue: str) -> str | None:
    """Say that nobody reads this queue, as far as can be seen; None where somebody may.

    An embedded broker makes a queue at its first message. The clouds refuse one that they do not
    have.
    """
    own = {*app.queues(), *app.queues(priorities=False)}
    if queue in own or app.broker.limits(queue).billed:
        return None
    used = operations.queue_names(app)
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
