"""Ids of scheduled runs, from schedule and due time, so that a run sent twice runs once.

The id of a run's message has its due time in it, `nightly@2026-11-21T07:30:00Z`, and is also its
idempotency key. A cloud's scheduler sends a body that was written in advance: EventBridge fills in
the time; for others the worker computes it from the crontab and the time the message was sent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from cloudq.driver import Delivery
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError
from cloudq.messages.message import TaskMessage
from cloudq.schedules import next_run as engine
from cloudq.schedules.when import every, read_crontab

log = Log("cloudq.schedules")

SCHEDULE = "cloudq-schedule"
"""Header: the entry's name."""
SLOT = "cloudq-slot"
"""Header: due time of the run, in UTC."""
EXPIRES = "cloudq-slot-expires"
"""Header of a body written in advance: seconds after the due time at which it expires."""
CRON = "cloudq-slot-cron"
"""Header of a body without a due time: `days|zone|line` of its crontab, period or time."""

# Start of a placeholder for the due time, such as EventBridge's, that was not filled in.
_UNFILLED = "<"
# Seconds; by a cloud's clock a message may be sent a little before it is due.
_EARLY = 5.0


def time_text(run_time: datetime) -> str:
    """Write a time in EventBridge's form, with milliseconds if it has any."""
    spec = "milliseconds" if run_time.microsecond else "seconds"
    return run_time.astimezone(UTC).isoformat(timespec=spec).replace("+00:00", "Z")


def id_of_run(name: str, run_time: str) -> str:
    """Make the task id of a run."""
    return f"{name}@{run_time}"


def resolved(message: TaskMessage, delivery: Delivery) -> TaskMessage:
    """Fill in the id, times and expiry of a scheduled message; returns others unchanged.

    Call it for messages with the header `cloudq-schedule`.
    """
    headers = message.headers
    if EXPIRES not in headers and CRON not in headers:
        return message
    try:
        name = headers[SCHEDULE]
        run_time = headers.get(SLOT, _UNFILLED)
        if run_time.startswith(_UNFILLED):
            run_time = _reckoned(headers[CRON], delivery)
        due = datetime.fromisoformat(run_time)
        changes: dict[str, Any] = {"sent_at": due.timestamp()}
        if message.expires is None and EXPIRES in headers:
            changes["expires"] = due.timestamp() + float(headers[EXPIRES])
        kept = {key: value for key, value in headers.items() if key not in (EXPIRES, CRON)}
        id = id_of_run(name, run_time)
        changes |= {"id": id, "idempotency_key": id, "headers": {**kept, SLOT: run_time}}
        TaskMessage(task=message.task, **changes)  # a copy checks nothing
    except (ConfigurationError, ValueError, LookupError, ArithmeticError, OSError) as error:
        log.warning(
            "a scheduled message keeps its id, since its due time cannot be computed: %s", error
        )
        return message
    return message.model_copy(update=changes)


def cron_header(line: str, days: str, timezone: str) -> str:
    """Make the header from which the due time is computed if a cloud does not send it."""
    return f"{days}|{timezone}|{line}"


def _reckoned(cron: str, delivery: Delivery) -> str:
    days, timezone, line = cron.split("|", 2)
    if days == "at":
        return time_text(datetime.fromisoformat(line))
    when = every(float(line)) if days == "every" else read_crontab(line, days)
    if delivery.sent_at is None:
        raise ConfigurationError("the broker does not say when the message was sent")
    sent = datetime.fromtimestamp(delivery.sent_at + _EARLY, UTC)
    run_time = engine.last_run(when, sent, ZoneInfo(timezone), start=None)
    if run_time is None:
        raise ConfigurationError(f"{when} had no run before {sent}")
    return time_text(run_time)
