"""The data of the queues: their numbers, and a look at the messages of one."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.rows import LetterRow, letter_rows
from cloudq.dashboard.visit import Visit
from cloudq.operations import queues
from cloudq.operations.queues import QueueRow

_PEEKED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The numbers of all queues."""

    rows: Part[list[QueueRow]]
    can_pause: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePage:
    """One queue. `messages` is None unless they were asked for; `peek_cost` warns of a price."""

    name: str
    row: Part[QueueRow]
    messages: Part[list[LetterRow]] | None
    peek_cost: str | None
    can_pause: bool


def data(watch: Watch, visit: Visit) -> Page:
    """Look at all queues."""
    app = watch.app
    rows = watch.part("queues", queues.queues, app)
    return Page(rows=rows, can_pause=app.conf.backend_url is not None)


def one(watch: Watch, visit: Visit) -> OnePage:
    """Look at the queue that a query names, and at its messages if that is asked for."""
    app, name = watch.app, visit.query.get("name")[:200]
    row = watch.part(("queue", name), queues.queue, app, name)
    messages: Part[list[LetterRow]] | None = None
    if visit.query.get("peek") and row.error is None:
        key = ("peek", name, visit.operates)
        messages = watch.part(key, _peeked, app, name, visit)
    return OnePage(
        name=name,
        row=row,
        messages=messages,
        peek_cost=queues.peek_cost(app),
        can_pause=app.conf.backend_url is not None,
    )


def _peeked(app: CloudQ, name: str, visit: Visit) -> list[LetterRow]:
    return letter_rows(queues.peek(app, name, count=_PEEKED), visit)
