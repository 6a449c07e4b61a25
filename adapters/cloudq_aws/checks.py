"""Refuses answers of AWS that lack what the service always sends.

boto3 reads an empty body, which is how a cut answer may arrive, as `{}`, and one that is no JSON, a
proxy's page for example, as an answer without members. Either would pass for "nothing there". And
on a part of another type than the service's it fails with an error of Python's own.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import orjson
from botocore.utils import parse_timestamp

from cloudq_aws.answers import CUT, NONE
from cloudq_aws.errors import AwsError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.model import OperationModel, Shape

_Object = dict[str, Any]

_JSON = frozenset({"json", "rest-json"})
# The SDK tries a request again after this error, as after a connection that broke.
_AGAIN = "RequestTimeout"


def guard(client: BaseClient) -> None:
    """Have the client try again where a 200 is not the service's answer, and raise in the end."""
    client.meta.events.register("before-parse", _check_body)
    client.meta.events.register("after-call", _check_outcome)


def _check_body(
    operation_model: OperationModel, response_dict: dict[str, Any], **_: object
) -> None:
    if operation_model.has_streaming_output:
        return
    if operation_model.service_model.metadata.get("protocol") not in _JSON:
        return
    body: bytes = response_dict["body"]
    shown = repr(body[:60].decode(errors="replace"))
    # Of an error that was cut the SDK knows the status alone, and would not try again.
    if _is_cut(response_dict["headers"], body):
        why = shown
    elif response_dict["status_code"] >= 300:
        why = _wrong_error(operation_model, body, shown)
    else:
        why = _wrong_answer(operation_model, body, shown)
    if why:
        response_dict["status_code"] = 502
        response_dict["body"] = json.dumps({"__type": _AGAIN, "message": f"{NONE}: {why}"}).encode()


def _wrong_answer(operation: OperationModel, body: bytes, shown: str) -> str:
    shape = operation.output_shape
    if not body and not (shape is not None and shape.members):
        return ""
    read = _read(body)
    if not isinstance(read, dict):
        return shown
    return _wrong(shape, cast("_Object", read)) if shape is not None else ""


def _wrong_error(operation: OperationModel, body: bytes, shown: str) -> str:
    # Of text that is no JSON the SDK makes an error itself, by the status.
    read = _read(body)
    if read is _UNREAD:
        return ""
    name: object = cast("Any", read).get("__type", "") if isinstance(read, dict) else None
    if not isinstance(name, str):
        return shown
    code = name.partition(":")[0].split("#")[-1]
    shape = cast("Any", operation.service_model).shape_for_error_code(code)
    return _wrong(shape, cast("_Object", read)) if shape is not None else ""


_UNREAD = object()


def _read(body: bytes) -> Any:
    for read in (orjson.loads, json.loads):  # orjson takes no lone surrogates, which AWS may send
        try:
            return read(body)
        except (ValueError, RecursionError):
            continue
    return _UNREAD


def _wrong(shape: Shape, value: object) -> str:
    """Say which part of an answer is of another type than in the service's model, if one is."""
    try:
        wrong = _wrong_part(shape, value, shape.name)
    except RecursionError:
        wrong = "depth"
    return wrong and f"its {wrong} is none of the service's"


def _wrong_part(shape: Any, value: Any, name: str) -> str:
    # Parts are called on the wire as in the model, in all operations here. The SDK leaves out
    # members that are null, and those that it does not know.
    kind: str = shape.type_name
    if kind in _TYPES:
        return "" if isinstance(value, _TYPES[kind]) else name
    if kind in _READERS:
        return "" if _is_read(_READERS[kind], value) else name
    if not isinstance(value, list if kind == "list" else dict):
        return name
    inside: list[tuple[Any, Any, str]]
    if kind == "list":
        inside = [(shape.member, each, name) for each in cast("list[Any]", value)]
    elif kind == "map":
        inside = [(shape.value, each, key) for key, each in cast("_Object", value).items()]
    else:
        known = shape.members
        inside = [
            (known[key], each, key)
            for key, each in cast("_Object", value).items()
            if each is not None and key in known
        ]
    for part in inside:
        if wrong := _wrong_part(*part):
            return wrong
    return ""


def _is_read(read: Callable[[Any], object], value: object) -> bool:
    try:
        read(value)
    except Exception:  # the SDK's readers raise errors of many kinds
        return False
    return True


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": (int, float),
    "long": (int, float),
    "float": (int, float),
    "double": (int, float),
}
_READERS: Mapping[str, Callable[[Any], object]] = {
    "blob": partial(b64decode, validate=True),
    "timestamp": parse_timestamp,
}


def _is_cut(headers: Mapping[str, str], body: bytes) -> bool:
    length = headers.get("content-length", "")
    return length.isdecimal() and len(body) < int(length) and "content-encoding" not in headers


def _check_outcome(http_response: Any, parsed: Mapping[str, Any], **_: object) -> None:
    # The SDK looks at the status of the answer itself, which was a 200.
    error = parsed.get("Error")
    if error is not None and http_response.status_code < 300:
        raise AwsError(error.get("Message", ""), code=CUT)
