"""Salvages the call of a message that cannot be read, so that who waits for its end gets one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.errors import DecodeError
from cloudq.messages.body import writable
from cloudq.messages.message import TaskMessage, WrongField
from cloudq.tasks.wire_parts import check_parts

# The fields that tell whose call it is, what waits for it, and what follows an end that is no
# success. Any of them may be the broken one.
_NAMES = (
    *("task", "slot", "root", "parent", "group", "retries"),
    *("call", "unique_key", "ignore_result", "chain", "link_error"),
)
# A name for the task of a message that tells none.
_NO_NAME = "?"


def salvage(fields: Mapping[str, Any], *, queue: str) -> TaskMessage | None:
    """Read the call of these unchecked fields without its arguments; None if it has no id."""
    known = {"task": _NO_NAME, "queue": queue, "id": fields.get("id")}
    message = _made(known)
    for name in _NAMES if message is not None else ():
        more = {**known, name: fields[name]} if name in fields else known
        if more is not known and (made := _made(more)) is not None:
            known, message = more, made
    return message


def _made(fields: Mapping[str, Any]) -> TaskMessage | None:
    """Make a message of these fields; None where one of them is wrong."""
    try:
        message = TaskMessage(**fields)
        if message.chain or message.link_error:
            check_parts(message, 0.0)
        return writable(message)
    except (WrongField, DecodeError):
        return None


def without_parts(message: TaskMessage) -> TaskMessage:
    """Return a call of which one of the parts that follow it cannot be read, without these."""
    return message.model_copy(update={"chain": [], "link": [], "link_error": []})
