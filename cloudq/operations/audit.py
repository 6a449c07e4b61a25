"""The log of operators' actions: kept in the result store, only ever added to, newest first."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cloudq.app import CloudQ
from cloudq.driver import Item, Key, Value
from cloudq.driver.log import Log
from cloudq.errors import CloudQError
from cloudq.messages.message import new_id
from cloudq.results.backend import Backend
from cloudq.results.events import sort_of
from cloudq.results.stored import readable, reading, typed

log = Log("cloudq.audit")

KEPT_DAYS = 90
"""Days for which entries are kept."""
_PAGE = 100
_LONGEST = 2000
_FIELDS = ("who", "via", "action", "what", "outcome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A person or program that acts, and by what means: "cli", "dashboard", "api"."""

    who: str
    via: str = "cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One action. `at` is epoch seconds; `count` is the number of things that it changed.

    `what` names them, a queue or a filter say; `outcome` is "done", or what was not done and why.
    """

    id: str
    at: float
    who: str
    via: str
    action: str
    what: str
    count: int | None = None
    outcome: str = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """Entries, newest first; `complete` is False where there are older ones."""

    entries: Sequence[Entry]
    complete: bool


def local_actor() -> Actor:
    """Return the user of this process and the host, for commands at a terminal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "?"
    return Actor(who=f"{user}@{socket.gethostname()}")


def write(
    app: CloudQ,
    by: Actor,
    action: str,
    what: str,
    *,
    count: int | None = None,
    outcome: str = "done",
) -> Entry:
    """Log an action that was carried out. One request.

    An entry that the store does not take, or for which there is no store, is in the program's log
    alone: the action itself is over by then.
    """
    entry = Entry(
        id=new_id(),
        at=app.runtime.clock(),
        who=by.who[:_LONGEST],
        via=by.via,
        action=action,
        what=what[:_LONGEST],
        count=count,
        outcome=outcome[:_LONGEST],
    )
    log.info("%s by %s (%s): %s: %s, %s", action, by.who, by.via, what, count, outcome)
    try:
        backend = app.backend
        refused = backend.put([_item_of(entry)]) if backend is not None else {}
        if refused:
            log.warning("%s by %s is not in the audit log: %s", action, by.who, refused[0].reason)
    except CloudQError as error:
        log.warning("%s by %s is not in the audit log: %s", action, by.who, error)
    return entry


def read(
    app: CloudQ,
    *,
    limit: int = 100,
    since: float = 0.0,
    who: str | None = None,
    action: str | None = None,
) -> AuditPage:
    """Read the newest entries, of one person or action if they are named.

    One query for each day and hundred entries, back to `since` (epoch seconds) or 90 days.
    Raises `BackendError`, and `ConfigurationError` without a store.
    """
    found: list[Entry] = []
    for entry in _newest(app.control.backend, app.runtime.clock(), since):
        if (who and entry.who != who) or (action and entry.action != action):
            continue
        if len(found) == limit:
            return AuditPage(entries=found, complete=False)
        found.append(entry)
    return AuditPage(entries=found, complete=True)


def _newest(backend: Backend, now: float, since: float) -> Iterator[Entry]:
    # A clock of another machine may be ahead by some seconds, over midnight.
    day = datetime.fromtimestamp(now + 60.0, UTC).date()
    last = datetime.fromtimestamp(max(since, now - KEPT_DAYS * 86_400.0), UTC).date()
    while day >= last:
        after: str | None = None
        while True:
            page = backend.query(f"audit#{day.isoformat()}", after=after, limit=_PAGE)
            for entry in readable(page.items, _entry_of):
                if entry.at >= since:
                    yield entry
            after = page.next
            if after is None:
                break
        day -= timedelta(days=1)


def _item_of(entry: Entry) -> Item:
    day = datetime.fromtimestamp(entry.at, UTC).date().isoformat()
    fields: dict[str, Value] = {name: getattr(entry, name) for name in _FIELDS}
    fields |= {"at": entry.at} | ({} if entry.count is None else {"count": entry.count})
    return Item(
        key=Key(f"audit#{day}", sort_of(entry.at, entry.id)),
        fields=fields,
        expires=entry.at + KEPT_DAYS * 86_400.0,
    )


def _entry_of(item: Item) -> Entry:
    values = typed(item, {**dict.fromkeys(_FIELDS, str), "at": (int, float), "count": (int, float)})
    with reading(item.key):
        count = values.pop("count", None)
        at = float(values.pop("at"))
        id = item.key.sort.split("#", 2)[2]
        named = {name: str(values[name]) for name in _FIELDS}
        return Entry(id=id, at=at, count=None if count is None else int(count), **named)
