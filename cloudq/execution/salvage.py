"""Salvages the chord slot of an undecodable message, so that its chord can fail."""

from __future__ import annotations

from typing import Any, cast

import orjson

from cloudq.errors import DecodeError
from cloudq.messages.message import VERSION, TaskMessage, WrongField
from cloudq.tasks.wire_parts import check_parts

# The fields that identify a chord member. Any other field may be the broken one.
_NAMES = ("id", "task", "slot", "root", "parent", "group", "retries")


def salvage(body: bytes, *, queue: str) -> TaskMessage | None:
    """Read the call in a plain body without its arguments; None if it is no chord member's.

    Do not call this in apps that require signatures: anyone who can write to the queue could
    then fail any chord. Other versions and sealed bodies are not read.
    """
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict):
        return None
    fields = cast("dict[str, Any]", parsed)
    if fields.get("v") != VERSION or not isinstance(fields.get("slot"), str):
        return None
    known = {name: fields[name] for name in _NAMES if name in fields}
    try:
        message = TaskMessage(**known, queue=queue)
    except WrongField:
        return None
    if not isinstance(fields.get("chain"), list):
        return message
    chained = message.model_copy(update={"chain": fields["chain"]})
    try:
        check_parts(chained, 0.0)
    except DecodeError:  # the remaining steps may be the broken field
        return message
    return chained


def without_parts(message: TaskMessage) -> TaskMessage:
    """Return a call of which one of the parts that follow it cannot be read, without these."""
    return message.model_copy(update={"chain": [], "link": [], "link_error": []})
