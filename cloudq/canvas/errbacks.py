"""Says what error callbacks are given, in workers and in calls that run at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.messages.message import TaskMessage
from cloudq.messages.redaction import Redaction
from cloudq.results.record import Record
from cloudq.tasks.signature import Node, Signature
from cloudq.tasks.task import Task

CHORD_ERROR = "cloudq.errors.ChordError"
"""The error type of a chord's body after a member has failed."""


def errback_values(
    errback: Node[Any],
    failed: Record,
    message: TaskMessage | None,
    tasks: Mapping[str, Task[..., Any]],
) -> tuple[Any, ...]:
    """Return what a frozen error callback gets, for Celery's two kinds of them.

    One kind takes the request, the error and the traceback, the other the failed id alone.
    `message` is that of the failed call; a body that was not run has none.
    """
    firsts = [each for each in errback.first() if isinstance(each, Signature)]
    if len(firsts) < len(errback.first()) or not all(
        _takes_request(each, tasks) for each in firsts
    ):
        return (failed.id,)
    error = f"{failed.error_type or failed.state}: {failed.error}"
    return (_request(failed, message, tasks), error, failed.traceback)


def _takes_request(call: Signature[Any], tasks: Mapping[str, Task[..., Any]]) -> bool:
    task = tasks.get(call.task)
    return task is not None and task.arguments.takes(2)


def _request(
    failed: Record, message: TaskMessage | None, tasks: Mapping[str, Task[..., Any]]
) -> dict[str, Any]:
    """Describe the failed call for an error callback. Its secrets travel with itself alone."""
    request = {"id": failed.id, "task": failed.task, "retries": failed.retries}
    if message is not None:
        task = tasks.get(message.task)
        rules = Redaction((), {}) if task is None else task.app.runtime.redaction
        args, kwargs = rules.arguments(message)
        named = {"args": args, "kwargs": kwargs, "queue": message.queue}
        request |= {**named, "root_id": message.root or message.id, "parent_id": message.parent}
    return request


def member_failed(record: Record) -> str:
    """Say why a chord's body does not run: a member has ended as this record says."""
    named = f"member {record.id}" + (f" ({record.task})" if record.task else "")
    return f"{named} failed: {record.error_type or record.state}: {record.error}"
