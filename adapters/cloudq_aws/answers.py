"""Refuses answers of AWS that lack what the service always sends.

boto3 reads an empty body, which is how a cut answer may arrive, as `{}`, and one that is no JSON, a
proxy's page for example, as an answer without members. Either would pass for "nothing there".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from cloudq.driver import Code
from cloudq_aws.errors import AwsError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.model import OperationModel

_JSON = frozenset({"json", "rest-json"})
# The SDK tries a request again after this error, as after a connection that broke.
_AGAIN = "RequestTimeout"


def guard(client: BaseClient) -> None:
    """Have the client try again where a 200 is not the service's answer, and raise in the end."""
    client.meta.events.register("before-parse", _check_body)
    client.meta.events.register("after-call", _check_outcome)


def told(reply: Mapping[str, Any], name: str) -> Any:
    """Return a member that the service always sends. Raises `AwsError` if it is not there."""
    if reply.get(name) is None:
        raise AwsError(f"the answer is cut or not the service's: it lacks {name}", code=_CUT)
    return reply[name]


_CUT = Code.UNREACHABLE


def _check_body(
    operation_model: OperationModel, response_dict: dict[str, Any], **_: object
) -> None:
    if operation_model.has_streaming_output:
        return
    if operation_model.service_model.metadata.get("protocol") not in _JSON:
        return
    body: bytes = response_dict["body"]
    # Of an error that was cut the SDK knows the status alone, and would not try again.
    if not _is_cut(response_dict["headers"], body):
        if response_dict["status_code"] >= 300 or _is_object(body):
            return
        shape = operation_model.output_shape
        if not body and not (shape is not None and shape.members):
            return
    shown = body[:60].decode(errors="replace")
    why = f"the answer is cut or not the service's: {shown!r}"
    response_dict["status_code"] = 502
    response_dict["body"] = json.dumps({"__type": _AGAIN, "message": why}).encode()


def _is_cut(headers: Mapping[str, str], body: bytes) -> bool:
    length = headers.get("content-length", "")
    return length.isdecimal() and len(body) < int(length) and "content-encoding" not in headers


def _is_object(body: bytes) -> bool:
    for read in (orjson.loads, json.loads):  # orjson takes no lone surrogates, which AWS may send
        try:
            return isinstance(read(body), dict)
        except ValueError:
            continue
    return False


def _check_outcome(http_response: Any, parsed: Mapping[str, Any], **_: object) -> None:
    # The SDK looks at the status of the answer itself, which was a 200.
    error = parsed.get("Error")
    if error is not None and http_response.status_code < 300:
        raise AwsError(error.get("Message", ""), code=_CUT)
