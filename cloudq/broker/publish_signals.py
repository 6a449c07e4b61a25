"""Sends the signals `before_task_publish` and `after_task_publish`, in the shape Celery has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cloudq import signals
from cloudq.messages.message import TaskMessage


def announced(messages: Sequence[TaskMessage]) -> Sequence[TaskMessage]:
    """Send `before_task_publish` for each message; receivers may add text to its headers.

    Returns the messages to publish.
    """
    return [_announced(message) for message in messages]


def published(messages: Sequence[TaskMessage]) -> None:
    """Send `after_task_publish` for each message."""
    for message in messages:
        signals.after_task_publish.send(message.task, **_fields(message))


def _announced(message: TaskMessage) -> TaskMessage:
    fields = _fields(message)
    headers: dict[str, Any] = fields["headers"]
    known = set(headers) - set(message.headers)
    signals.before_task_publish.send(
        message.task,
        **fields,
        properties={"correlation_id": message.id, "reply_to": None},
        declare=[],
    )
    own = {name: str(value) for name, value in headers.items() if name not in known}
    return message if own == message.headers else message.model_copy(update={"headers": own})


def _fields(message: TaskMessage) -> dict[str, Any]:
    """Return a message as Celery shows it to the receivers of its publish signals."""
    workflow = {"callbacks": message.link, "errbacks": message.link_error, "chain": message.chain}
    headers = {
        "id": message.id,
        "task": message.task,
        "retries": message.retries,
        "eta": _text(message.not_before),
        "expires": _text(message.expires),
        "root_id": message.root or message.id,
        "parent_id": message.parent,
        "group": message.group,
        "shadow": message.shadow,
        "timelimit": [message.time_limit, message.soft_time_limit],
    }
    return {
        "body": (tuple(message.args), message.kwargs, workflow),
        "exchange": "",
        "routing_key": message.queue,
        "headers": headers | message.headers,
    }


def _text(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
