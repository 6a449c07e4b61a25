"""A run's own name, the schedule and when it is due: however often it is sent, it is one run.

A message of a schedule bears the slot in its id, `nightly@2026-11-21T07:30:00Z`, and the same as
its idempotency key. A cloud's scheduler sends a body that was written beforehand: EventBridge puts
the slot into it, for others the worker reckons it from when the message was sent and the crontab.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cloudq.driver import Delivery
from cloudq.errors import ConfigurationError
from cloudq.messages.message import TaskMessage
from cloudq.schedules import next_run as engine
from cloudq.schedules.when import every, read_crontab

log = logging.getLogger("cloudq.schedules")

SCHEDULE = "cloudq-schedule"
"""Header: the entry's name."""
SLOT = "cloudq-slot"
"""Header: when the run is due, in UTC."""
EXPIRES = "cloudq-slot-expires"
"""Header of a body that was written beforehand: seconds after the slot."""
CRON = "cloudq-slot-cron"
"""Header of a body without a slot: `days|zone|line`, of a crontab, a period or a time."""

# How a place for the slot begins that nothing was put into.
_UNFILLED = "<"
# A cloud's clock may tell the sending a little before the slot.
_EARLY = 5.0


def slot_text(slot: datetime) -> str:
    """A slot as text: as EventBridge writes it; with milliseconds where it has some."""
    spec = "milliseconds" if slot.microsecond else "seconds"
    return slot.astimezone(UTC).isoformat(timespec=spec).replace("+00:00", "Z")


def slot_id(name: str, slot: str) -> str:
    """The task id of a run."""
    return f"{name}@{slot}"


def resolved(message: TaskMessage, delivery: Delivery) -> TaskMessage:
    """A message of a schedule with what its slot decides filled in; others as they are.

    Call it for messages that bear the header `cloudq-schedule`.
    """
    headers = message.headers
    if EXPIRES not in headers and CRON not in headers:
        return message
    try:
        name = headers[SCHEDULE]
        slot = headers.get(SLOT, _UNFILLED)
        if slot.startswith(_UNFILLED):
            slot = _reckoned(headers[CRON], delivery)
        due = datetime.fromisoformat(slot)
        changes: dict[str, object] = {"sent_at": due.timestamp()}
        if message.expires is None and EXPIRES in headers:
            changes["expires"] = due.timestamp() + float(headers[EXPIRES])
    except (ConfigurationError, ValueError, KeyError) as error:
        log.warning("the slot of a scheduled message cannot be told: %s", error)
        return message
    kept = {key: value for key, value in headers.items() if key not in (EXPIRES, CRON)}
    id = slot_id(name, slot)
    return message.model_copy(
        update={**changes, "id": id, "idempotency_key": id, "headers": {**kept, SLOT: slot}}
    )


def cron_header(line: str, days: str, timezone: str) -> str:
    """What the slot is reckoned from, where a cloud does not tell it."""
    return f"{days}|{timezone}|{line}"


def _reckoned(cron: str, delivery: Delivery) -> str:
    days, timezone, line = cron.split("|", 2)
    if days == "at":
        return slot_text(datetime.fromisoformat(line))
    when = every(float(line)) if days == "every" else read_crontab(line, days)
    if delivery.sent_at is None:
        raise ConfigurationError("the broker does not say when the message was sent")
    sent = datetime.fromtimestamp(delivery.sent_at + _EARLY, UTC)
    slot = engine.last_run(when, sent, ZoneInfo(timezone), start=None)
    if slot is None:
        raise ConfigurationError(f"{when} had no run before {sent}")
    return slot_text(slot)
