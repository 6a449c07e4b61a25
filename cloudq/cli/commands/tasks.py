"""`cloudq tasks`: lists finished tasks, shows one, and runs them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.cli.commands.result import as_json
from cloudq.cli.edits import edit_of
from cloudq.cli.guesses import task_meant
from cloudq.cli.options import JsonOption, Target, YesOption, common, refuse_memory, require_file
from cloudq.cli.output import complain, confirm, duration, emit, local, note, say, table
from cloudq.cli.tasks_output import event_json, show_life, why
from cloudq.cli.times import moment
from cloudq.errors import ConfigurationError
from cloudq.monitoring.event_log import FINAL, TRACKED, Reader
from cloudq.operations import task_actions
from cloudq.operations import tasks as operations
from cloudq.operations.audit import local_actor
from cloudq.operations.seen import without_claims
from cloudq.operations.task_actions import RetryDone
from cloudq.operations.tasks import FAILURES, TaskFilter, TaskSearch
from cloudq.results.events import Event
from cloudq.results.record import State

cli = typer.Typer(no_args_is_help=True, help="List finished tasks, show one, run some again.")

Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="TASK", help="Only this task; may be repeated."),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        "--task",
        metavar="GLOB",
        help="Only tasks whose name matches, such as 'shop.*'.",
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE", help="Only this state; may be repeated. Default: final states."
    ),
]
QueueOption = Annotated[
    str | None, typer.Option("--queue", "-Q", metavar="QUEUE", help="Only of this queue.")
]
WorkerOption = Annotated[
    str | None, typer.Option("--worker", metavar="NAME", help="Only of this worker.")
]
ErrorOption = Annotated[
    str | None, typer.Option("--error", metavar="TEXT", help="Only with this text in the error.")
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only after this: 90s, 10m, 2h or 3d ago, or 2026-11-20T10:00.",
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only before this, as --since.")
]
ArgsOption = Annotated[bool, typer.Option("--args", help="Show the arguments.")]
Seen = Annotated[
    int, typer.Option("--seen", min=1, metavar="N", help="Look through so many at most.")
]


@cli.command("list")
@common
def list_tasks(
    target: Target,
    state: States = None,
    name: NameOption = None,
    queue: QueueOption = None,
    worker: WorkerOption = None,
    since: Since = None,
    until: Until = None,
    error: ErrorOption = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to show.")
    ] = 100,
    seen: Seen = 10_000,
    args: ArgsOption = False,
    json: JsonOption = False,
) -> None:
    """List recently finished tasks, newest first.

    Makes one query for each task and state that has any; --name and --state reduce the cost.
    """
    chosen = _filter(state, name, queue, worker, since, until, error)
    app = opened(target)
    with app:
        found = operations.search(app, chosen, limit=count, most=seen)
        hint = _name_hint(app, name) if not found.rows else None
    if json:
        emit([event_json(event, args=args) for event in found.rows])
        return
    columns = ["TIME", "STATE", "TASK", "ID", "TOOK", "TRIES", "WORKER", "ERROR"]
    rows = [_row(event) for event in found.rows]
    if args:
        columns.append("ARGUMENTS")
        said = [event.args and without_claims(event.args) for event in found.rows]
        rows = [[*row, each] for row, each in zip(rows, said, strict=True)]
    table(columns, rows, empty=f"no matching tasks{hint or ''}")
    tell_scope(found)
    warn_unrecorded(found.recorded, chosen.states)


@cli.command()
@common
def show(
    target: Target,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")],
    args: ArgsOption = False,
    json: JsonOption = False,
) -> int:
    """Show one task: its record and its events, oldest first.

    Arguments are hidden unless --args is given. The exit code is 1 if there is no such task.
    """
    app = opened(target)
    with app:
        found = operations.life(app, id, graph=False)
        recorded = operations.recorded_states(app)
    if found is None:
        if json:
            emit(None)
        complain(f"no record of task {id}: it has not finished, or its record has expired")
        return 1
    if json:
        events = [event_json(event, args=args) for event in found.events]
        emit(as_json(found.record) | {"events": events, "children": list(found.children)})
        return 0
    show_life(found, args=args)
    warn_unrecorded(recorded, FINAL)
    return 0


@cli.command()
@common
def retry(
    target: Target,
    state: States = None,
    name: NameOption = None,
    queue: QueueOption = None,
    worker: WorkerOption = None,
    since: Since = None,
    until: Until = None,
    error: ErrorOption = None,
    most: Annotated[
        int, typer.Option("--limit", min=1, metavar="N", help="So many at most.")
    ] = task_actions.MOST_RETRIED,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would run again.")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> int:
    """Run failed tasks again, with their recorded arguments; each once.

    A task with a dead letter goes on as that letter; any other becomes a new call.
    """
    states = state if state else [str(each) for each in FAILURES.states]
    chosen = _filter(states, name, queue, worker, since, until, error)
    app = opened(target)
    with app:
        found = operations.search(app, chosen, limit=most, most=10_000)
        events = task_actions.distinct(found.rows)
        if dry_run or not events:
            hint = _name_hint(app, name) if not events else None
            return _dry(events, found, hint, dry=dry_run, json=json)
        confirm(f"Run {counted(len(events), 'task')} again?", "retry", yes=yes)
        done = task_actions.retry(app, chosen, by=local_actor(), most=most, found=found)
    return _tell(done, json=json)


@cli.command("run-again")
@common
def run_again(
    target: Target,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")],
    edit: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Change arguments: an object changes those it names, as {"sku": "b"}; a list '
            "replaces all positional ones.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run one task again, with its recorded arguments or with others; print the new id."""
    changed = None if edit is None else edit_of(edit)
    app = opened(target)
    with app:
        done = task_actions.run_again(app, id, by=local_actor(), edit=changed)
    if json:
        emit(asdict(done), indent=False)
        return
    say(done.id)
    if done.redriven:
        note("its dead letter was sent again: it keeps its id")


def opened(target: Target) -> CloudQ:
    """Open an app whose store can be read. Raises `ConfigurationError`."""
    app = target.open()
    refuse_memory(app)
    require_file(app)
    return app


def reader_of(app: CloudQ) -> Reader:
    """Return a reader of the app's events. Raises `ConfigurationError` without a store."""
    refuse_memory(app)
    return Reader(app.control.backend)


def states_of(given: list[str] | None) -> tuple[State, ...]:
    """Read state names. Raises `ConfigurationError` for an unknown one."""
    if not given:
        return FINAL
    wanted = [name.strip().upper() for each in given for name in each.split(",")]
    for name in wanted:
        if name not in set(map(str, TRACKED)):
            known = ", ".join(map(str, TRACKED))
            raise ConfigurationError(f"--state {name}: events have the states {known}")
    return tuple(State(name) for name in dict.fromkeys(wanted))


def since_of(given: str | None) -> float:
    """Read a moment as epoch seconds; 0 for none. Raises `ConfigurationError`."""
    return moment("--since", given) or 0.0


def warn_unrecorded(recorded: Sequence[State], states: Sequence[State]) -> None:
    """Print a note if some of these states are not recorded."""
    missing = [str(state) for state in states if state not in recorded]
    if missing and not recorded:
        note("nothing is recorded with task_events=none; unset, failures are")
    elif missing:
        level = "final" if set(missing) <= set(map(str, FINAL)) else "tracked"
        verb = "is" if len(missing) == 1 else "are"
        note(f"{', '.join(missing)} {verb} recorded only with task_events={level}")


def tell_scope(found: TaskSearch) -> None:
    """Say what was looked through, if it was not all or not all is shown."""
    if found.complete and len(found.rows) == found.matched:
        return
    back = f", back to {local(found.back_to)}" if found.back_to is not None else ""
    note(f"{found.scope}{back}")


def _filter(
    state: list[str] | None,
    name: str | None,
    queue: str | None,
    worker: str | None,
    since: str | None,
    until: str | None,
    error: str | None,
) -> TaskFilter:
    return TaskFilter(
        name=name,
        states=states_of(state),
        queue=queue,
        worker=worker,
        since=since_of(since),
        until=moment("--until", until),
        error=error,
    )


def _row(event: Event) -> list[object]:
    return [
        local(event.at),
        str(event.state),
        event.task,
        event.id,
        duration(event.took),
        event.retries + 1,
        event.worker,
        why(event),
    ]


def _name_hint(app: CloudQ, name: str | None) -> str | None:
    """Say what name may be meant by one that nobody has."""
    if name is None:
        return None
    close = task_meant(name, {*Reader(app.control.backend).names(), *app.tasks})
    return None if close is None else f" of {name!r}: did you mean {close!r}?"


def _dry(
    events: Sequence[Event], found: TaskSearch, hint: str | None, *, dry: bool, json: bool
) -> int:
    if json and not dry:
        return _tell(RetryDone(again=(), failed=(), found=found), json=True)
    if json:
        rows = [event_json(event, args=False) for event in events]
        emit({"dry_run": True, "tasks": rows, "complete": found.complete})
        return 0
    columns = ["TIME", "STATE", "TASK", "ID", "ERROR"]
    rows = [[local(e.at), str(e.state), e.task, e.id, why(e)] for e in events[:20]]
    table(columns, rows, empty=f"no matching tasks{hint or ''}")
    if len(events) > 20:
        note(f"the first 20 of {len(events):,}")
    tell_scope(found)
    note(f"{'dry run: ' if dry else ''}{counted(len(events), 'task')} chosen, nothing was done")
    return 0


def _tell(done: RetryDone, *, json: bool) -> int:
    if json:
        emit({"again": list(map(asdict, done.again)), "failed": list(map(asdict, done.failed))})
        return 1 if done.failed else 0
    say(f"{counted(len(done.again), 'task')} run again")
    for failed in done.failed:
        complain(f"{failed.task} {failed.id}: {failed.reason}", kind="not run")
    return 1 if done.failed else 0


def add_to(program: typer.Typer) -> None:
    """Add `tasks` and its commands to those of `cloudq`."""
    program.add_typer(cli, name="tasks")
