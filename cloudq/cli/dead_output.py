"""Prints dead letters, and what became of them, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from cloudq import amounts
from cloudq.app import CloudQ
from cloudq.cli.guesses import task_meant
from cloudq.cli.messages import list_messages
from cloudq.cli.output import complain, emit, note, say, since, table
from cloudq.errors import ConfigurationError
from cloudq.operations import dead_letters, queues
from cloudq.operations.dead_actions import DeadDone
from cloudq.operations.dead_letters import By, DeadFilter, DeadSearch
from cloudq.operations.seen import Seen
from cloudq.text import iso_time

_GROUPS: Mapping[str, By] = {
    "reason": "reason",
    "exception": "exception",
    "task": "task",
    "age": "age",
}


def counted(letters: list[Seen], found: DeadSearch) -> str:
    """Count the letters chosen, of those that match if they are more."""
    if len(letters) < found.matched:
        return f"{len(letters):,} of {found.matched:,} dead letters"
    return amounts.counted(len(letters), "dead letter")


def show_queues(app: CloudQ, *, json: bool) -> int:
    """Print the dead letters of each queue as numbers and newest reasons; return the exit code."""
    found = dead_letters.summary(app)
    code = 1 if found and all(each.problem for each in found) else 0
    if json:
        emit([asdict(each) | {"newest_at": iso_time(each.newest_at)} for each in found])
        return code
    table(
        ["QUEUE", "DEAD", "NEWEST", "REASONS"],
        [
            [
                each.queue,
                each.count,
                each.newest_at and f"{since(each.newest_at)} ago",
                each.problem or "; ".join(each.reasons) or None,
            ]
            for each in found
        ],
        empty="no queues",
    )
    if any(each.count for each in found):
        _tell_cost(app)
    return code


def show_groups(app: CloudQ, by: str, chosen: DeadFilter, queue: str | None, *, json: bool) -> None:
    """Print groups of dead letters. Raises `ConfigurationError` for an unknown kind."""
    kind = _GROUPS.get(by)
    if kind is None:
        raise ConfigurationError(f"--by {by}: it is one of {', '.join(_GROUPS)}")
    found = dead_letters.groups(app, kind, chosen, queue)
    if json:
        emit(
            [
                {
                    "name": group.name,
                    "count": group.count,
                    "newest_at": iso_time(group.newest_at),
                    "oldest_at": iso_time(group.oldest_at),
                    "queues": list(group.queues),
                }
                for group in found.groups
            ]
        )
        return
    rows = [
        [group.name, group.count, since(group.newest_at), ", ".join(group.queues)]
        for group in found.groups
    ]
    table([kind.upper(), "COUNT", "NEWEST", "QUEUES"], rows, empty="no dead letters")
    tell_incomplete(found.search)


def show_found(
    app: CloudQ, found: DeadSearch, chosen: DeadFilter, queue: str | None, *, json: bool
) -> None:
    """Print the dead letters that were found."""
    if json:
        emit([seen.as_json() for seen in found.letters])
        return
    empty = _none(app, found, chosen, queue)
    list_messages(found.letters, dead=True, empty=empty, queues=queue is None)
    if len(found.letters) < found.matched:
        note(f"{len(found.letters):,} of {found.matched:,} are shown: -n shows more")
    if not chosen.is_empty:
        tell_incomplete(found)
    _tell_cost(app)


def tell_chosen(
    app: CloudQ,
    letters: list[Seen],
    found: DeadSearch,
    chosen: DeadFilter,
    queue: str | None,
    *,
    action: str | None,
    json: bool,
) -> int:
    """Print what would be acted on; return the exit code.

    `action` is one that finds nothing to act on; None is a dry run.
    """
    if json and action is not None:
        return tell_done(action, DeadDone(action=action, done=0, chosen=0), found, json=True)
    if json:
        emit({"dry_run": True, "chosen": len(letters), "matched": found.matched} | _scope(found))
        return 0
    empty = _none(app, found, chosen, queue)
    list_messages(letters[:20], dead=True, empty=empty, queues=queue is None)
    if len(letters) > 20:
        note(f"the first 20 of {len(letters):,}")
    tell_incomplete(found)
    kind = "dry run: " if action is None else ""
    note(f"{kind}{counted(letters, found)} chosen, nothing was done")
    return 0


def tell_done(verb: str, done: DeadDone, found: DeadSearch, *, json: bool) -> int:
    """Print what became of letters; return the exit code."""
    if json:
        emit(asdict(done) | _scope(found))
        return 1 if done.failed else 0
    say(f"{amounts.counted(done.done, 'dead letter')} {verb}")
    for failed in done.failed:
        complain(f"{failed.id}: {failed.reason}", kind="not done")
    tell_incomplete(found)
    return 1 if done.failed else 0


def _none(app: CloudQ, found: DeadSearch, chosen: DeadFilter, queue: str | None) -> str:
    """Say that nothing was found, of how many, and what task may be meant."""
    where = f" in {queue!r}" if queue else ""
    if not found.seen:
        return f"no dead letters{where}"
    close = None if chosen.task is None else task_meant(chosen.task, app.tasks)
    hint = "" if close is None else f": --task {chosen.task}: did you mean {close}?"
    return f"none of {amounts.counted(found.seen, 'dead letter')}{where} matches{hint}"


def _scope(found: DeadSearch) -> dict[str, object]:
    return {"seen": found.seen, "complete": found.complete}


def tell_incomplete(found: DeadSearch) -> None:
    """Say what was not read."""
    for queue, problem in found.problems.items():
        complain(f"{queue} was left out: {problem}", kind="warning")
    if not found.complete and not found.problems:
        note(f"only the first {found.seen:,} dead letters were read: run this again for the rest")


def _tell_cost(app: CloudQ) -> None:
    remark = queues.peek_cost(app)
    if remark:
        note(remark)
