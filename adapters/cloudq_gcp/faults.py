"""The words in which Google's services refuse requests, for a proxy that does so in their place.

For `cloudq.testing.GrpcFaultProxy(..., batches=held_back)` before an emulator of Firestore, and
`cloudq.testing.FaultProxy(..., refusals=STORAGE)` before one of Cloud Storage.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from google.cloud.firestore_v1.types import BatchWriteRequest, BatchWriteResponse
from google.rpc.code_pb2 import Code

from cloudq.testing.kit.dice import Fault
from cloudq.testing.kit.grpc_proxy import Part
from cloudq.testing.kit.proxy import Answer


def _of_storage(status: int, reason: str) -> Answer:
    told = {"code": status, "message": "as planned", "errors": [{"reason": reason}]}
    return Answer(
        status=status,
        headers={"Content-Type": "application/json; charset=UTF-8"},
        body=json.dumps({"error": told}).encode(),
    )


STORAGE = {
    Fault.ERROR: _of_storage(503, "backendError"),
    Fault.THROTTLED: _of_storage(429, "rateLimitExceeded"),
}
"""The refusals of Cloud Storage, and of other services by JSON."""

_BATCH_WRITE = "/google.firestore.v1.Firestore/BatchWrite"
# Each of which Firestore may say of one write: others were in the way, or it has no room.
_PASSING = (Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)


def held_back(method: str, body: bytes, choose: Callable[[int], int]) -> Part | None:
    """Hold back the write that `choose` names by its place; None if this is no batch of them."""
    if method != _BATCH_WRITE:
        return None
    request: Any = BatchWriteRequest.pb()()
    request.ParseFromString(body)
    place = choose(len(request.writes))
    code = _PASSING[choose(len(_PASSING))]
    del request.writes[place]

    def told(answer: bytes) -> bytes:
        rest: Any = BatchWriteResponse.pb()()
        rest.ParseFromString(answer)
        found: Any = BatchWriteResponse.pb()()
        found.write_results.extend(rest.write_results[:place])
        found.write_results.add()
        found.write_results.extend(rest.write_results[place:])
        found.status.extend(rest.status[:place])
        found.status.add(code=code, message="as planned")
        found.status.extend(rest.status[place:])
        return bytes(found.SerializeToString())

    return (bytes(request.SerializeToString()) if request.writes else None), told
