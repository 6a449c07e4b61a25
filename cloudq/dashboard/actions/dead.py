"""Actions on dead letters: those chosen by hand, or all that match a filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from cloudq.app import CloudQ
from cloudq.dashboard.actions.edits import changes, edit_of
from cloudq.dashboard.actions.plan import Action, Done, Plan, Told
from cloudq.dashboard.pages import dead as page
from cloudq.dashboard.pages.rows import letter_rows
from cloudq.dashboard.questions import Thing
from cloudq.dashboard.visit import Visit
from cloudq.dashboard.words import plural
from cloudq.errors import ConfigurationError
from cloudq.operations import dead_actions, dead_letters
from cloudq.operations.audit import Actor
from cloudq.operations.dead_actions import DeadDone, Edit
from cloudq.operations.dead_letters import EVERYTHING, DeadFilter, DeadSearch
from cloudq.operations.seen import Seen

_SHOWN = 10
_MOST_TOLD = 20
_FASTEST = 10_000.0


def _redrive(app: CloudQ, visit: Visit) -> Plan:
    chosen, queue, found = _chosen(app, visit)
    rate = _rate(visit.form.get("rate"))
    edit = _edit(visit, found.letters)
    details = [f"They go back to their queue, {rate:g} a second."] if rate else []
    if edit is not None:
        details.append(f"With {changes(edit)}, checked against the parameters of the task.")
    count = len(found.letters)
    return Plan(
        question=f"Redrive {plural(count, 'dead letter')}?",
        button=f"Redrive {count:,}",
        number=count,
        run=partial(_redriven, app, chosen, queue, found.letters, rate, edit),
        scope=_scope(found, chosen),
        things={_thing(seen) for seen in found.letters},
        details=details,
        letters=letter_rows(found.letters[:_SHOWN], visit),
        long=True,
        nothing="No dead letter matches any more." if not count else None,
    )


def _delete(app: CloudQ, visit: Visit) -> Plan:
    chosen, queue, found = _chosen(app, visit)
    count = len(found.letters)
    return Plan(
        question=f"Delete {plural(count, 'dead letter')} for good?",
        button=f"Delete {count:,}",
        number=count,
        run=partial(_deleted, app, chosen, queue, found.letters),
        scope=_scope(found, chosen),
        things={_thing(seen) for seen in found.letters},
        details=["This cannot be undone. Download them first if in doubt."],
        letters=letter_rows(found.letters[:_SHOWN], visit),
        danger=True,
        long=True,
        nothing="No dead letter matches any more." if not count else None,
    )


def _chosen(app: CloudQ, visit: Visit) -> tuple[DeadFilter, str | None, DeadSearch]:
    """Return the filter of a form, its queue, and the letters that it chooses now."""
    form = visit.form
    queue = form.get("queue") or None
    is_all = form.get("scope") == "all"
    chosen = page.filter_of(form)
    if is_all:
        chosen = DeadFilter(
            task=chosen.task,
            error=chosen.error,
            reason=chosen.reason,
            exception=chosen.exception,
            older_than=chosen.older_than,
            newer_than=chosen.newer_than,
        )
    elif chosen.ids:
        chosen = DeadFilter(ids=chosen.ids)
    else:
        raise ConfigurationError(
            "nothing is chosen: tick some dead letters, or take all that match"
        )
    everything = dead_letters.search(app, EVERYTHING, queue)
    letters = page.chosen_of(everything, chosen, app.runtime.clock())
    if visit.confirmed is not None:
        # What has come since was not shown, and is left.
        letters = [seen for seen in letters if _thing(seen) in visit.confirmed]
    found = DeadSearch(
        letters=letters,
        matched=len(letters),
        seen=everything.seen,
        complete=everything.complete,
        problems=everything.problems,
    )
    return chosen, queue, found


def _thing(seen: Seen) -> Thing:
    return seen.queue, seen.peeked.id


def _scope(found: DeadSearch, chosen: DeadFilter) -> str:
    of = f"{found.seen:,}" if found.complete else f"the first {found.seen:,}"
    return f"{len(found.letters):,} of {of} dead letters: {chosen}"


def _rate(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0.01 <= rate <= _FASTEST:
        raise ConfigurationError(f"the rate is letters a second, 0.01 to {_FASTEST:g}")
    return rate


def _edit(visit: Visit, letters: Sequence[Seen]) -> Edit | None:
    """Read the changed arguments; those of a single letter may have secrets that stay."""
    form = visit.form
    message = letters[0].message if len(letters) == 1 else None
    shown = letters[0].shown if message is not None else None
    return edit_of(
        form.get("args"),
        form.get("kwargs"),
        args_before=list(message.args) if message is not None else None,
        kwargs_before=dict(message.kwargs) if message is not None else None,
        shown=None if shown is None else (list(shown.args), dict(shown.kwargs)),
    )


def _redriven(
    app: CloudQ,
    chosen: DeadFilter,
    queue: str | None,
    letters: Sequence[Seen],
    rate: float | None,
    edit: Edit | None,
    by: Actor,
    progress: Told,
) -> Done:
    done = dead_actions.redrive(
        app, letters, queue, by=by, rate=rate, edit=edit, told=progress, said=_said(chosen)
    )
    return _done(done, "redriven")


def _deleted(
    app: CloudQ,
    chosen: DeadFilter,
    queue: str | None,
    letters: Sequence[Seen],
    by: Actor,
    progress: Told,
) -> Done:
    return _done(
        dead_actions.delete(app, letters, queue, by=by, told=progress, said=_said(chosen)),
        "deleted",
    )


def _said(chosen: DeadFilter) -> str:
    """Return the words of the audit log for a choice: the ids themselves, where they are few."""
    if not chosen.ids:
        return f"all that match: {chosen}"
    few = ", ".join(chosen.ids[:5])
    return few if len(chosen.ids) <= 5 else f"{few} and {len(chosen.ids) - 5} more"


def _done(done: DeadDone, verb: str) -> Done:
    failed = [f"{each.id} in {each.queue}: {each.reason}" for each in done.failed[:_MOST_TOLD]]
    if len(done.failed) > _MOST_TOLD:
        failed.append(f"and {len(done.failed) - _MOST_TOLD} more")
    text = f"{plural(done.done, 'dead letter')} {verb}"
    return Done(text=f"{text}, {len(done.failed)} not" if failed else text, failed=failed)


_FIELDS = (*page.FILTERS, "scope", "rate", "args", "kwargs")
ACTIONS = (
    Action(name="redrive", plan=_redrive, fields=_FIELDS, back="/dead"),
    Action(name="delete-dead", plan=_delete, fields=_FIELDS, back="/dead"),
)
