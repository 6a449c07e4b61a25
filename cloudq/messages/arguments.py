"""The arguments of a message as Python values, however they were written."""

from __future__ import annotations

from typing import Any

from cloudq.messages.message import TaskMessage
from cloudq.messages.serializers import PICKLE, unpickled
from cloudq.messages.values import arguments as plain_arguments
from cloudq.messages.values import from_wire


def arguments(message: TaskMessage) -> tuple[list[Any], dict[str, Any]]:
    """The Python values of a message's arguments. Raises `DecodeError`.

    Those of a pickled message are unpickled: `Codec.decode` lets none through that is not signed
    and accepted.
    """
    if message.serializer != PICKLE:
        return plain_arguments(message)
    args = [unpickled(arg, from_wire) for arg in message.args]
    return args, {key: unpickled(arg, from_wire) for key, arg in message.kwargs.items()}
