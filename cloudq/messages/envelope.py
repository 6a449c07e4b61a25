"""The parts of envelopes: their versions, the queue they name, and the text of what is in them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from cloudq.errors import DecodeError
from cloudq.messages.formats import installed_formats
from cloudq.messages.json_text import json_text
from cloudq.messages.serializers import PICKLE
from cloudq.messages.values import check_depth, plain_numbers

SEALED = b'{"v":2,'
"""The start of an envelope that is signed, compressed or in another notation."""
ENCRYPTED = b'{"v":4,'
"""The start of an encrypted envelope, see `cloudq.messages.encryption`."""
_DEEPEST = 200  # levels of JSON, as many as the reader of a plain message takes


def form_of(body: bytes) -> str | None:
    """Name the form of a body that is no plain message; None for an unknown form."""
    if body.startswith(ENCRYPTED):
        return "encrypted"
    if body.startswith(SEALED):
        return "signed, compressed or in a notation of its own"
    for foreign in installed_formats():
        if foreign.recognizes(body):
            return f"a message in {foreign.title}'s form"
    return None


def bare(queue: str) -> str:
    """A queue's own name: one side may know it by its URL."""
    return queue.rpartition("/")[2]


def content_text(serializer: str, zipped: object, data: bytes) -> bytes:
    """Make the value of `body`: JSON as it is, YAML as text, the rest as base64."""
    if zipped is None and serializer in ("json", PICKLE):
        return data
    if zipped is None and serializer == "yaml":
        return json_text(data.decode())
    return b'"%b"' % base64.b64encode(data)


def data_of(fields: Mapping[str, Any], serializer: str) -> bytes:
    """Return the data that `content_text` was given. Raises `DecodeError`."""
    body = fields.get("body")
    if "zip" not in fields and serializer in ("json", PICKLE):
        check_depth(body, _DEEPEST, what="undecodable: the values")
        return json_text(plain_numbers(body))
    if not isinstance(body, str):
        raise DecodeError("undecodable: the sealed envelope has no text for its body")
    if "zip" not in fields and serializer == "yaml":
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise DecodeError(f"undecodable: the sealed body is not base64: {error}") from error
