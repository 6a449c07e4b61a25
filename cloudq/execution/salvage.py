"""What can still be told of a message that cannot be read: whose place in a join it was."""

from __future__ import annotations

from typing import Any, cast

import orjson
from pydantic import ValidationError

from cloudq.canvas.freeze import ends_of
from cloudq.canvas.slots import Slot
from cloudq.messages.message import VERSION, TaskMessage

# What names a member; all else of the message may be what is wrong with it.
_NAMES = ("id", "task", "slot", "root", "parent", "group", "retries")


def salvage(body: bytes, *, queue: str) -> TaskMessage | None:
    """The call of a plain body, without its arguments; None for all but a join's member.

    Only for apps that take messages without a signature: else whoever may write to the queue
    could fail any chord. What another version or a sealed envelope says is not guessed at.
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
        ends_of(chain)
        return message.model_copy(update={"chain": list(chain)})
    except Exception:  # whatever stands in the place of the steps to come
        return message
