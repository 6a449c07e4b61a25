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


# Performatives of AMQP 1.0: attach, flow, transfer, disposition.
_REQUESTS = frozenset({0x12, 0x13, 0x14, 0x15})
_HEADER = 8


def frame(data: bytes) -> tuple[int, bool] | None:
    """Tell the length of the first frame of AMQP, and whether it asks for something.

    A link that is opened does, credit, a message, a settlement; what opens or keeps a connection
    does not. None if the frame is not whole yet.
    """
    if len(data) < _HEADER:
        return None
    if data.startswith(b"AMQP"):
        return _HEADER, False
    size = int.from_bytes(data[:4], "big")
    if size < _HEADER or len(data) < size:
        return None if size >= _HEADER else (len(data), False)
    body = data[4 * data[4] : size]
    is_amqp = data[5] == 0 and body[:2] == b"\x00\x53"
    return size, is_amqp and body[2] in _REQUESTS
