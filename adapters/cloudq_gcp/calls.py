"""Calls of Google's APIs without what the SDK's clients wrap around each, alone or many at once.

A client checks, copies and wraps a request for what these calls have no use for (retries, other
universes, logs, classes around those of protobuf), for as much CPU again as gRPC itself takes. The
request on the wire is the same, and so are the errors.
"""

# The SDK is typed in part only, and grpc not at all.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import grpc
from google.api_core import exceptions as sdk
from google.api_core.gapic_v1 import routing_header
from google.api_core.gapic_v1.client_info import ClientInfo

from cloudq_gcp.errors import REQUEST_ERRORS
from cloudq_gcp.rest import Rest

TIMEOUT = 30.0
"""Seconds for one request. One that finds no server is told so within five."""

Metadata = Sequence[tuple[str, str]]

# Requests under way at a time: a connection of gRPC bears a hundred.
_AT_ONCE = 64
_THREADS = 16
# Names of queues whose metadata are kept.
_QUEUES = 1_024


class Call(Protocol):
    """A call of an API; request and answer are of protobuf. Raises the SDK's errors."""

    def __call__(self, request: Any, *, timeout: float, metadata: Metadata) -> Any: ...


class Method(NamedTuple):
    """A method of an API: its path, and protobuf's class of its answer."""

    path: str
    answer: Any


def call(channel: Any, method: Method, by_sdk: Any, request: Any) -> Call:
    """A call of one try: of `method` over a channel of gRPC, `by_sdk` over one that is a `Rest`.

    `request` is the SDK's class around those of protobuf that the call takes.
    """
    if isinstance(channel, Rest):
        return _OverHttp(by_sdk, request)
    return _OverGrpc(channel, method, request.pb())


class _OverGrpc:
    def __init__(self, channel: grpc.Channel, method: Method, request: Any) -> None:
        self._method: Any = channel.unary_unary(
            method.path,
            request_serializer=request.SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        self.future = self._method.future

    def __call__(self, request: Any, *, timeout: float, metadata: Metadata) -> Any:
        try:
            return self._method(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise sdk.from_grpc_error(error) from error


class _OverHttp:
    def __init__(self, method: Any, request: Any) -> None:
        self._method, self._request = method, request

    def __call__(self, request: Any, *, timeout: float, metadata: Metadata) -> Any:
        answer = self._method(self._request.wrap(request), timeout=timeout, metadata=metadata)
        return None if answer is None else type(answer).pb(answer)


@lru_cache(_QUEUES)
def routed(name: str, value: str) -> Metadata:
    """The metadata by which Google routes a request, and counts it, as the SDK's clients add."""
    return (routing_header.to_grpc_metadata(((name, value),)), ClientInfo().to_grpc_metadata())


def at_once(call: Any, requests: Sequence[Any], metadata: Metadata) -> list[Any | Exception]:
    """Make many requests at a time; return each one's answer or error."""
    answers: list[Any | Exception] = []
    if not hasattr(call, "future"):  # not of gRPC, which needs no threads for it
        with ThreadPoolExecutor(min(len(requests), _THREADS) or 1) as pool:
            made = [
                pool.submit(call, request, timeout=TIMEOUT, metadata=metadata)
                for request in requests
            ]
            return [_outcome(future) for future in made]
    for start in range(0, len(requests), _AT_ONCE):
        futures = [
            call.future(request, timeout=TIMEOUT, metadata=metadata)
            for request in requests[start : start + _AT_ONCE]
        ]
        answers += [_outcome(future) for future in futures]
    return answers


def _outcome(future: Any) -> Any | Exception:
    try:
        return future.result()
    except grpc.RpcError as error:
        return sdk.from_grpc_error(error)
    except REQUEST_ERRORS as error:
        return error
