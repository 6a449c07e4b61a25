"""`cloudq dead`: lists, redrives, deletes and exports dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cloudq import amounts
from cloudq.app import CloudQ
from cloudq.cli.commands.queues import tell_purged
from cloudq.cli.dead_options import (
    AllOption,
    ErrorOption,
    ExceptionOption,
    IdsArgument,
    MostOption,
    NewerOption,
    OlderOption,
    QueueArgument,
    ReasonOption,
    TaskOption,
    chosen_by,
)
from cloudq.cli.dead_output import (
    counted,
    show_found,
    show_groups,
    show_queues,
    tell_chosen,
    tell_done,
    tell_incomplete,
)
from cloudq.cli.edits import edit_of
from cloudq.cli.options import JsonOption, Target, YesOption, common, require_file
from cloudq.cli.output import confirm, emit, fields, local, note, since
from cloudq.errors import ConfigurationError
from cloudq.operations import dead_actions, dead_letters, queues
from cloudq.operations.audit import local_actor
from cloudq.operations.dead_letters import DeadFilter, DeadSearch
from cloudq.operations.seen import Seen
from cloudq.text import AsIs

cli = typer.Typer(no_args_is_help=True, help="List, redrive, delete and export dead letters.")


@cli.command("list")
@common
def list_dead(
    target: Target,
    queue: QueueArgument = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to show.")
    ] = 20,
    task: TaskOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    exception: ExceptionOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="reason|exception|task|age", help="Count them in groups."),
    ] = None,
    json: JsonOption = False,
) -> int:
    """List dead letters with their reasons.

    Without a queue: the number of each queue with the newest reasons, or with options all dead
    letters that match.
    """
    chosen = chosen_by(task, error, reason, exception, older_than, newer_than)
    app = target.open()
    require_file(app)
    with app:
        if by is not None:
            show_groups(app, by, chosen, queue, json=json)
        elif queue is None and chosen.is_empty:
            return show_queues(app, json=json)
        else:
            most = count if chosen.is_empty else dead_letters.MOST
            found = dead_letters.search(app, chosen, queue, limit=count, most=most)
            show_found(app, found, chosen, queue, json=json)
    return 0


@cli.command()
@common
def show(
    target: Target,
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")],
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the task or message.")],
    json: JsonOption = False,
) -> None:
    """Show one dead letter in full."""
    app = target.open()
    require_file(app)
    with app:
        seen = dead_letters.one(app, queue, id)
    if json:
        emit(seen.as_json())
        return
    content: object = seen.shown.changed() if seen.shown else None
    if content is None and seen.calls:
        content = [call.changed() for call in seen.shown_calls]
    sent = local(seen.peeked.sent_at)
    fields(
        (
            ("id", seen.id),
            ("message", seen.peeked.id if seen.peeked.id != seen.id else None),
            ("reason", seen.reason or "none: moved here by the service"),
            ("retries", seen.retries),
            ("sent", sent and f"{sent}, {since(seen.peeked.sent_at)} ago"),
            ("problem", seen.problem),
            ("body", None if content else AsIs(seen.body)),
        )
    )
    if content:
        emit(AsIs(content))


@cli.command()
@common
def redrive(
    target: Target,
    queue: QueueArgument = None,
    ids: IdsArgument = None,
    everything: AllOption = False,
    task: TaskOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    exception: ExceptionOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    most: MostOption = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, metavar="N", help="Send so many a second.")
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Change arguments: an object changes those it names, as {"sku": "b"}; a list '
            "replaces all positional ones.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be sent.")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> int:
    """Send dead letters back to their queues.

    Choose them by id, by options or with --all. Without a queue: of all queues.
    """
    given = (task, error, reason, exception, older_than, newer_than)
    chosen = _chosen(ids, everything, chosen_by(*given, ids=ids))
    changes = None if edit is None else edit_of(edit)
    app = target.open()
    require_file(app)
    with app:
        letters, found = _selected(app, chosen, queue, most)
        if dry_run or not letters:
            action = None if dry_run else "redrive"
            return tell_chosen(app, letters, found, chosen, queue, action=action, json=json)
        where = f" to {queue!r}" if queue else " to their queues"
        change = f" with other {changes}" if changes else ""
        confirm(f"Send {counted(letters, found)} back{where}{change}?", queue or "all", yes=yes)
        done = dead_actions.redrive(app, letters, queue, by=local_actor(), rate=rate, edit=changes)
    return tell_done("sent again", done, found, json=json)


@cli.command()
@common
def delete(
    target: Target,
    queue: QueueArgument = None,
    ids: IdsArgument = None,
    everything: AllOption = False,
    task: TaskOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    exception: ExceptionOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    most: MostOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be deleted.")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> int:
    """Delete dead letters permanently.

    Choose them by id, by options or with --all. Without a queue: of all queues.
    """
    given = (task, error, reason, exception, older_than, newer_than)
    chosen = _chosen(ids, everything, chosen_by(*given, ids=ids))
    app = target.open()
    require_file(app)
    with app:
        letters, found = _selected(app, chosen, queue, most)
        if dry_run or not letters:
            action = None if dry_run else "delete dead letters"
            return tell_chosen(app, letters, found, chosen, queue, action=action, json=json)
        where = f" of {queue!r}" if queue else ""
        question = f"Delete {counted(letters, found)}{where} permanently?"
        confirm(question, queue or "all", yes=yes)
        done = dead_actions.delete(app, letters, queue, by=local_actor())
    return tell_done("deleted", done, found, json=json)


@cli.command()
@common
def purge(
    target: Target,
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")],
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete all dead letters of a queue permanently, however many there are."""
    app = target.open()
    require_file(app)
    with app:
        before = queues.look(app, queue)
        count = (
            "all dead letters"
            if before.dead is None
            else amounts.counted(before.dead, "dead letter")
        )
        confirm(f"Delete {count} of {queue!r} permanently?", queue, yes=yes)
        done = dead_actions.purge(app, queue, by=local_actor())
    if json:
        emit(asdict(done))
        return
    tell_purged(done, "dead letter", f"of {queue!r}")


@cli.command()
@common
def export(
    target: Target,
    queue: QueueArgument = None,
    ids: IdsArgument = None,
    task: TaskOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    exception: ExceptionOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
) -> None:
    """Print dead letters as JSON lines, one each, with their messages but for secrets."""
    chosen = chosen_by(task, error, reason, exception, older_than, newer_than, ids=ids)
    app = target.open()
    require_file(app)
    with app:
        found = dead_letters.search(app, chosen, queue)
    for seen in found.letters:
        emit(seen.as_json(), indent=False)
    tell_incomplete(found)
    note(f"{found.scope} exported")


# ---- choosing


def _chosen(ids: list[str] | None, everything: bool, chosen: DeadFilter) -> DeadFilter:
    if chosen.is_empty and not everything:
        raise ConfigurationError(
            "no dead letters chosen: give their ids, an option such as --task GLOB, or --all"
        )
    if ids and everything:
        raise ConfigurationError("give ids or --all, not both")
    return chosen


def _selected(
    app: CloudQ, chosen: DeadFilter, queue: str | None, most: int | None
) -> tuple[list[Seen], DeadSearch]:
    found = dead_letters.search(app, chosen, queue)
    missing = dead_letters.missing_ids(found, chosen)
    if missing:
        where = f" {queue}" if queue else ""
        raise ConfigurationError(
            f"no dead letter {', '.join(missing)}: see `cloudq dead list{where}`"
        )
    return list(found.letters if most is None else found.letters[:most]), found


def add_to(program: typer.Typer) -> None:
    """Add `dead` and its commands to those of `cloudq`."""
    program.add_typer(cli, name="dead")
