"""Writes messages in Celery's protocol 2, as kombu puts them on SQS, for Celery's workers."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from cloudq.contrib.celery.protocol.reading import COMPRESSION, KEPT, KEPT_FIELDS
from cloudq.contrib.celery.protocol.values import their_node, theirs
from cloudq.errors import EncodeError
from cloudq.messages.compression import compress
from cloudq.messages.json_text import json_text
from cloudq.messages.message import TaskMessage

_NAMES = {name: content for content, name in COMPRESSION.items()}


def write(message: TaskMessage) -> bytes:
    """Write a message's body for Celery. Raises `EncodeError` for what Celery cannot express."""
    if message.slot is not None or message.gather is not None:
        raise EncodeError(
            f"{message.task} belongs to a chord, whose join Celery's workers cannot know: "
            "send it in cloudq's own protocol"
        )
    if message.serializer is not None:
        raise EncodeError(
            f"{message.task}: for Celery messages are written in json, not {message.serializer}"
        )
    task, args, kwargs = _call(message)
    content = json_text(
        [
            args,
            kwargs,
            {
                "callbacks": [their_node(node) for node in message.link] or None,
                "errbacks": [their_node(node) for node in message.link_error] or None,
                "chain": [their_node(node) for node in reversed(message.chain)] or None,
                "chord": None,
            },
        ]
    )
    headers = _headers(message, task)
    if message.compression is not None:
        content = compress(message.compression, content)
        headers["compression"] = _NAMES[message.compression]
    outer = {
        "body": base64.b64encode(content).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": message.id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": message.queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    return base64.b64encode(json_text(outer))


def _call(message: TaskMessage) -> tuple[str, list[Any], dict[str, Any]]:
    """Give the task's name and its arguments in Celery's terms."""
    if message.task in ("cloudq.map", "cloudq.starmap"):
        match message.args:
            case [str(name), [*items]]:
                each = their_node({"task": name})
            case _:
                raise EncodeError(f"{message.task} takes the name of a task, and a list")
        task = message.task.replace("cloudq", "celery")
        return task, [], {"task": each, "it": [theirs(item) for item in items]}
    if message.task.startswith("cloudq."):
        raise EncodeError(f"{message.task} cannot be sent to Celery, which has no such task")
    kwargs = {key: theirs(value) for key, value in message.kwargs.items()}
    return message.task, [theirs(arg) for arg in message.args], kwargs


def _headers(message: TaskMessage, task: str) -> dict[str, Any]:
    plain = {name: value for name, value in message.changed().items() if name in KEPT_FIELDS}
    return {
        **message.headers,
        "lang": "py",
        "task": task,
        "id": message.id,
        "shadow": None,
        "eta": _iso(message.not_before),
        "expires": _iso(message.expires),
        "group": message.group,
        "group_index": None,
        "retries": message.retries,
        "timelimit": [message.time_limit, message.soft_time_limit],
        "root_id": message.root or message.id,
        "parent_id": message.parent,
        "origin": "cloudq",
        "ignore_result": bool(message.ignore_result),
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **({KEPT: plain} if plain else {}),
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
