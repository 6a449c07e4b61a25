"""`cloudq dead`: lists, redrives and deletes dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from cloudq.app import CloudQ
from cloudq.cli.commands.queues import QueueArgument, check_known, look, looking, tell_purged
from cloudq.cli.messages import Seen, as_json, dumped, list_messages, read
from cloudq.cli.options import JsonOption, Target, YesOption, common
from cloudq.cli.output import complain, confirm, emit, fields, local, note, say, since
from cloudq.driver import Failure
from cloudq.errors import ConfigurationError
from cloudq.text import AsIs

cli = typer.Typer(no_args_is_help=True, help="List, redrive and delete dead letters.")

# Dead letters that a search reads at most.
_MOST = 10_000

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids, as `dead list` shows them.")
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="GLOB", help="Only tasks whose name matches, such as 'shop.*'."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters of the queue.")]


@cli.command("list")
@common
def list_dead(
    target: Target,
    queue: QueueArgument,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to show.")
    ] = 20,
    task: TaskOption = None,
    json: JsonOption = False,
) -> None:
    """List a queue's dead letters with their reasons."""
    app = target.open()
    with app:
        found = _read(app, queue, count if task is None else _MOST)
    chosen = _select(found, (), task)[:count]
    if json:
        emit([as_json(seen) for seen in chosen])
        return
    of = f" of tasks {task!r}" if task else ""
    list_messages(chosen, dead=True, empty=f"no dead letters{of} in {queue!r}")
    looking(app)


@cli.command()
@common
def show(
    target: Target,
    queue: QueueArgument,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the task or message.")],
    json: JsonOption = False,
) -> None:
    """Show one dead letter in full."""
    app = target.open()
    with app:
        seen = _select(_read(app, queue, _MOST), (id,), None)[0]
    if json:
        emit(as_json(seen))
        return
    content: object = seen.message.changed() if seen.message else None
    if content is None and seen.calls:
        content = dumped(seen)
    sent = local(seen.peeked.sent_at)
    fields(
        (
            ("id", seen.id),
            ("message", seen.peeked.id if seen.peeked.id != seen.id else None),
            ("reason", seen.peeked.reason or "none: moved here by the service"),
            ("deliveries", seen.peeked.attempts),
            ("sent", sent and f"{sent}, {since(seen.peeked.sent_at)} ago"),
            ("problem", seen.problem),
            ("body", None if content else AsIs(_text(seen))),
        )
    )
    if content:
        emit(AsIs(content))


@cli.command()
@common
def redrive(
    target: Target,
    queue: QueueArgument,
    ids: IdsArgument = None,
    everything: AllOption = False,
    task: TaskOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be sent.")
    ] = False,
    yes: YesOption = False,
) -> int:
    """Send dead letters back to their queue.

    Choose them by id, with --all, or with --task GLOB.
    """
    app = target.open()
    with app:
        chosen = _chosen(app, queue, ids, everything, task)
        if dry_run or not chosen:
            list_messages(chosen, dead=True, empty=f"no matching dead letters in {queue!r}")
            note(f"dry run: {len(chosen)} would be sent again, nothing was done")
            return 0
        confirm(f"Send {len(chosen)} dead letters back to {queue!r}?", queue, yes=yes)
        with app.broker.asking("redrive to", queue) as admin:
            failures = admin.redrive(queue, [seen.peeked for seen in chosen])
    return _tell("sent again", chosen, failures)


@cli.command()
@common
def purge(
    target: Target,
    queue: QueueArgument,
    ids: IdsArgument = None,
    task: TaskOption = None,
    yes: YesOption = False,
) -> int:
    """Delete dead letters permanently.

    Choose them by id or with --task GLOB; otherwise all are deleted.
    """
    app = target.open()
    with app:
        if not ids and task is None:
            before = look(app, queue)
            count = "the" if before.dead is None else str(before.dead)
            confirm(f"Delete {count} dead letters of {queue!r} permanently?", queue, yes=yes)
            with app.broker.asking("purge the dead letters of", queue) as admin:
                tell_purged(admin.purge_dead(queue), before.dead_queue or f"{queue}, dead letters")
            return 0
        chosen = _chosen(app, queue, ids, False, task)
        if not chosen:
            say(f"no matching dead letters in {queue!r}")
            return 0
        confirm(f"Delete {len(chosen)} dead letters of {queue!r} permanently?", queue, yes=yes)
        with app.broker.asking("delete the dead letters of", queue) as admin:
            failures = admin.delete_dead(queue, [seen.peeked for seen in chosen])
    return _tell("deleted", chosen, failures)


def _text(seen: Seen) -> str:
    return seen.peeked.body.decode(errors="backslashreplace")


def _chosen(
    app: CloudQ, queue: str, ids: Sequence[str] | None, everything: bool, task: str | None
) -> list[Seen]:
    if not ids and not everything and task is None:
        raise ConfigurationError("no dead letters chosen: give their ids, --all or --task GLOB")
    if ids and everything:
        raise ConfigurationError("give ids or --all, not both")
    found = _read(app, queue, _MOST)
    if len(found) == _MOST:
        note(f"only the first {_MOST} dead letters were read: run this again for the rest")
    return _select(found, ids or (), task)


def _read(app: CloudQ, queue: str, count: int) -> list[Seen]:
    with app.broker.asking("look at the dead letters of", queue) as admin:
        found = admin.peek_dead(queue, count=count)
    if not found:
        check_known(app, queue)
    return [read(peeked, app, queue) for peeked in found]


def _select(found: Sequence[Seen], ids: Sequence[str], task: str | None) -> list[Seen]:
    missing = [id for id in ids if not any(seen.goes_by(id) for seen in found)]
    if missing:
        raise ConfigurationError(
            f"no dead letter {', '.join(missing)}: see `cloudq dead list QUEUE`"
        )
    return [
        seen
        for seen in found
        if (not ids or any(seen.goes_by(id) for id in ids))
        and (task is None or any(fnmatchcase(name, task) for name in seen.tasks))
    ]


def _tell(done: str, chosen: Sequence[Seen], failures: Sequence[Failure]) -> int:
    say(f"{len(chosen) - len(failures)} dead letters {done}")
    for failure in failures:
        complain(f"{chosen[failure.index].id}: {failure.reason} ({failure.code})", kind="not done")
    return 1 if failures else 0


def add_to(program: typer.Typer) -> None:
    """Add `dead` and its commands to those of `cloudq`."""
    program.add_typer(cli, name="dead")
