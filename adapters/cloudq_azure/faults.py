"""The words in which Azure's services refuse requests, for a proxy that does so in their place.

For `cloudq.testing.FaultProxy(..., batches=held_back, refusals=...)` before Azurite's tables or
blobs, and for `cloudq.testing.WireFaultProxy(..., frames=frame)` before an emulator of Service Bus.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cloudq.testing.kit.dice import Fault
from cloudq.testing.kit.proxy import Answer, Part

_ERROR = ("InternalError", "The server encountered an internal error. Please retry the request.")
_BUSY = ("ServerBusy", "The server is busy.")


def _of_tables(status: int, code: str, message: str) -> Answer:
    told = {"odata.error": {"code": code, "message": {"lang": "en-US", "value": message}}}
    return Answer(
        status=status,
        headers={"Content-Type": "application/json", "x-ms-error-code": code},
        body=json.dumps(told).encode(),
    )


def _of_blobs(status: int, code: str, message: str) -> Answer:
    return Answer(
        status=status,
        headers={
            "Content-Type": "application/xml",
            "x-ms-error-code": code,
            "x-ms-request-id": "as-planned",
        },
        body=f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code>'
        f"<Message>{message}</Message></Error>".encode(),
    )


TABLES = {Fault.ERROR: _of_tables(500, *_ERROR), Fault.THROTTLED: _of_tables(503, *_BUSY)}
"""The refusals of Table storage."""
BLOBS = {Fault.ERROR: _of_blobs(500, *_ERROR), Fault.THROTTLED: _of_blobs(503, *_BUSY)}
"""The refusals of Blob storage."""

_PARTS = """--batchresponse_planned\r
Content-Type: multipart/mixed; boundary=changesetresponse_planned\r
\r
--changesetresponse_planned\r
Content-Type: application/http\r
Content-Transfer-Encoding: binary\r
\r
HTTP/1.1 503 Service Unavailable\r
Content-Type: application/json;odata=minimalmetadata;streaming=true;charset=utf-8\r
x-ms-error-code: ServerBusy\r
\r
{body}\r
--changesetresponse_planned--\r
--batchresponse_planned--\r
"""


def held_back(headers: Mapping[str, str], body: bytes, choose: Callable[[int], int]) -> Part | None:
    """Refuse one entity of a transaction of Table storage, and so all of it; None if it is none."""
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if not kind.startswith("multipart/mixed"):
        return None
    chosen = choose(body.count(b"HTTP/1.1\r\n") or 1)

    def told(_answer: Any) -> Answer:
        refusal = _of_tables(503, _BUSY[0], f"{chosen}:{_BUSY[1]}").body.decode()
        return Answer(
            status=202,
            headers={"Content-Type": "multipart/mixed; boundary=batchresponse_planned"},
            body=_PARTS.format(body=refusal).encode(),
        )

    return None, told


# Performatives of AMQP 1.0, the places of two fields of a flow, and the constructors of lists.
_FLOW, _TRANSFER, _DISPOSITION = 0x13, 0x14, 0x15
_DRAIN = 8
_SHORT, _LONG = 0xC0, 0xD0
_HEADER = 8


def frame(data: bytes) -> tuple[int, bool] | None:
    """Tell the length of the first frame of AMQP, and whether it asks for something.

    A message does, a request for instance, and a settlement, and a flow that asks for the messages
    that are there; what opens or keeps connections and links does not. None if the frame is not
    whole yet.
    """
    if len(data) < _HEADER:
        return None
    if data.startswith(b"AMQP"):
        return _HEADER, False
    size = int.from_bytes(data[:4], "big")
    if size < _HEADER or len(data) < size:
        return None if size >= _HEADER else (len(data), False)
    body = data[4 * data[4] : size]
    if data[5] != 0 or body[:2] != b"\x00\x53":
        return size, False
    if body[2] == _FLOW:
        return size, _field(body[3:], _DRAIN) in (b"\x41", b"\x56\x01")
    return size, body[2] in (_TRANSFER, _DISPOSITION)


def _field(encoded: bytes, place: int) -> bytes:
    """One field of a list whose fields before it have fixed widths; empty if there is none."""
    start = {_SHORT: 3, _LONG: 9}.get(encoded[0], len(encoded)) if encoded else 0
    for _ in range(place):
        if start >= len(encoded):
            break
        start += _width(encoded[start])
    return encoded[start : start + _width(encoded[start])] if start < len(encoded) else b""


def _width(constructor: int) -> int:
    # 0x4_ has no bytes beside the constructor, 0x5_ one, 0x6_ two, and so on to 16.
    kind = constructor >> 4
    return 1 + (1 << (kind - 5) if kind > 4 else 0)
