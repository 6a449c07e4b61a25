"""Salvages the chord slot of an undecodable message, so that its chord can fail."""

from __future__ import annotations

from typing import Any, cast

import orjson
from pydantic import ValidationError

from cloudq.canvas.slots import Slot
from cloudq.canvas.tails import calls_of
from cloudq.messages.message import VERSION, TaskMessage

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
        Slot.from_wire(str(message.slot))
    except (ValidationError, ValueError):
        return None
    try:
        chain = fields.get("chain", [])
        calls_of(chain)
        return message.model_copy(update={"chain": list(chain)})
    except Exception:  # the remaining steps may be the broken field, in any way
        return message
