"""The data of the dead letters: a filter, the groups and the letters that it chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.rows import LetterRow, letter_row, letter_rows, pretty
from cloudq.dashboard.pages.tasks import whole
from cloudq.dashboard.visit import Form, Visit
from cloudq.operations import dead_letters, queues
from cloudq.operations.dead_letters import EVERYTHING, By, DeadFilter, DeadSearch
from cloudq.operations.seen import Seen

AGES: Mapping[str, float] = {"10m": 600, "1h": 3600, "1d": 86_400, "7d": 604_800}
"""The ages that can be chosen, in seconds."""
GROUPS: Mapping[str, By] = {
    "reason": "reason",
    "exception": "exception",
    "task": "task",
    "age": "age",
}
"""The ways to group."""
PARAMETERS: Mapping[str, str] = {
    "queue": "name of the queue; all queues of the app without",
    "task": "name of the task, with * and ?",
    "error": "a text in the reason",
    "reason": "the whole reason",
    "exception": "class of the exception",
    "older": f"older than one of {', '.join(AGES)}, or seconds",
    "newer": f"newer than one of {', '.join(AGES)}, or seconds",
    "id": "id of a task or message; may be repeated",
    "by": "groups by reason, exception, task or age",
    "page": "page of letters, from 1",
}
"""The parameters of a search."""
FILTERS = ("queue", "task", "error", "reason", "exception", "older", "newer")
"""The parameters that choose letters, but ids."""
_ON_PAGE = 50
_MOST_GROUPS = 12
_LONGEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group of letters, with the parameters that choose it."""

    name: str
    count: int
    newest_at: float | None
    oldest_at: float | None
    queues: Sequence[str]
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The letters that a filter chooses, a page of them, with how much was read."""

    letters: Sequence[LetterRow]
    groups: Sequence[GroupRow]
    more_groups: int
    matched: int
    seen: int
    complete: bool
    scope: str
    queues: Mapping[str, int]
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A search for dead letters. `filter` is in words; `names` are the queues to choose from."""

    found: Part[Found]
    filter: str
    is_filtered: bool
    by: str
    page: int
    pages: int
    names: Sequence[str]
    peek_cost: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. `body` is the text of one that cannot be read; JSON is None where hidden."""

    row: LetterRow
    headers: str | None
    args_json: str | None
    kwargs_json: str | None
    calls_json: str | None
    body: str | None
    one_call: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePage:
    """One dead letter in full."""

    queue: str
    id: str
    letter: Part[Letter]


def data(watch: Watch, visit: Visit) -> Page:
    """Search the dead letters by the query of a visit."""
    app, query = watch.app, visit.query
    chosen, queue = filter_of(query), query.get("queue")[:_LONGEST] or None
    by = GROUPS.get(query.get("by"), "reason")
    names = watch.part("names", queues.own_queues, app)
    everything = letters_of(watch, queue)
    number = whole(query.get("page"), 1, 1, 10_000)
    found: Part[Found] = Part(error=everything.error, at=everything.at)
    pages = 1
    if everything.value is not None:
        now = app.runtime.clock()
        fitting = chosen_of(everything.value, chosen, now)
        pages = max(1, -(-len(fitting) // _ON_PAGE))
        number = min(number, pages)
        found = Part(
            value=_found(everything.value, fitting, by, now, number, visit), at=everything.at
        )
    return Page(
        found=found,
        filter=str(chosen),
        is_filtered=not chosen.is_empty,
        by=by,
        page=number,
        pages=pages,
        names=names.value or (),
        peek_cost=queues.peek_cost(app),
    )


def letters_of(watch: Watch, queue: str | None) -> Part[DeadSearch]:
    """Read the dead letters of a queue, or of all; one look for all filters."""
    return watch.part(("dead", queue), dead_letters.search, watch.app, EVERYTHING, queue)


def chosen_of(search: DeadSearch, chosen: DeadFilter, now: float) -> list[Seen]:
    """Return the letters of a search that a filter chooses."""
    return [seen for seen in search.letters if chosen.matches(seen, now)]


def one(watch: Watch, visit: Visit) -> OnePage:
    """Look at one dead letter."""
    queue, id = visit.query.get("queue")[:_LONGEST], visit.query.get("id")[:_LONGEST]
    letter = watch.part(("letter", queue, id, visit.operates), _letter, watch.app, queue, id, visit)
    return OnePage(queue=queue, id=id, letter=letter)


def filter_of(query: Form) -> DeadFilter:
    """Read a filter from a query or a form."""
    return DeadFilter(
        task=query.get("task").strip()[:_LONGEST] or None,
        error=query.get("error").strip()[:_LONGEST] or None,
        reason=query.get("reason") or None,
        exception=query.get("exception").strip()[:_LONGEST] or None,
        older_than=_age(query.get("older")),
        newer_than=_age(query.get("newer")),
        ids=tuple(query.all("id")),
    )


def query_of(chosen: DeadFilter) -> dict[str, str]:
    """Return the parameters of a filter, but its ids."""
    given: dict[str, object] = {
        "task": chosen.task,
        "error": chosen.error,
        "reason": chosen.reason,
        "exception": chosen.exception,
        "older": chosen.older_than,
        "newer": chosen.newer_than,
    }
    return {name: _text(value) for name, value in given.items() if value is not None}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _age(text: str) -> float | None:
    if text in AGES:
        return AGES[text]
    return float(text) if re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,3})?", text) else None


def _found(
    search: DeadSearch, fitting: Sequence[Seen], by: By, now: float, number: int, visit: Visit
) -> Found:
    groups = dead_letters.grouped(fitting, by, now)
    start = (number - 1) * _ON_PAGE
    counts: dict[str, int] = {}
    for seen in fitting:
        counts[seen.queue] = counts.get(seen.queue, 0) + 1
    of = f"{len(search.letters):,}" if search.complete else f"the first {len(search.letters):,}"
    return Found(
        letters=letter_rows(fitting[start : start + _ON_PAGE], visit),
        groups=[_group(group) for group in groups[:_MOST_GROUPS]],
        more_groups=max(0, len(groups) - _MOST_GROUPS),
        matched=len(fitting),
        seen=search.seen,
        complete=search.complete,
        scope=f"{len(fitting):,} of {of} dead letters",
        queues=counts,
        problems=search.problems,
    )


def _group(group: dead_letters.DeadGroup) -> GroupRow:
    return GroupRow(
        name=group.name,
        count=group.count,
        newest_at=group.newest_at,
        oldest_at=group.oldest_at,
        queues=group.queues,
        query=query_of(group.filter) if not group.filter.ids else {},
    )


def _letter(app: CloudQ, queue: str, id: str, visit: Visit) -> Letter:
    seen = dead_letters.one(app, queue, id)
    message = seen.shown
    may = visit.operates
    calls = (
        [call.changed() for call in seen.shown_calls] if message is None and seen.calls else None
    )
    return Letter(
        row=letter_row(seen, visit),
        headers=pretty(message.headers) if message is not None and message.headers else None,
        args_json=pretty(list(message.args)) if message is not None and may else None,
        kwargs_json=pretty(dict(message.kwargs)) if message is not None and may else None,
        calls_json=pretty(calls) if calls and may else None,
        body=seen.body if not seen.calls and may else None,
        one_call=message is not None,
    )
