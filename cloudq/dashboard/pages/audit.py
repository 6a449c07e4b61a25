"""The data of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.tasks import whole
from cloudq.dashboard.visit import Visit
from cloudq.operations import audit
from cloudq.operations.audit import AuditPage

PARAMETERS: Mapping[str, str] = {
    "who": "name of the user",
    "action": "name of the action",
    "days": "days to read, 1 to 90",
    "limit": "entries, 1 to 500",
}
"""The parameters of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Entries of the log, of the last `days`."""

    log: Part[AuditPage]
    days: int


def data(watch: Watch, visit: Visit) -> Page:
    """Read the log."""
    query = visit.query
    who, action = query.get("who")[:200], query.get("action")[:200]
    days = whole(query.get("days"), 7, 1, audit.KEPT_DAYS)
    limit = whole(query.get("limit"), 100, 1, 500)
    key = ("audit", who, action, days, limit)
    # A query for each day: what somebody has just done is shown at once, since actions forget.
    return Page(log=watch.part(key, _read, watch.app, who, action, days, limit), days=days)


def _read(app: CloudQ, who: str, action: str, days: int, limit: int) -> AuditPage:
    since = app.runtime.clock() - days * 86_400.0
    return audit.read(app, limit=limit, since=since, who=who or None, action=action or None)
