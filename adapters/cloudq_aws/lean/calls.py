"""Decides for each call whether it goes the short way, and hands over to boto3 what does not."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import ReferenceType, ref

from botocore.handlers import add_recursion_detection_header
from botocore.httpsession import URLLib3Session

from cloudq_aws.lean.connection import Kept
from cloudq_aws.lean.exchange import Exchange
from cloudq_aws.lean.hooks import Hooks, hooks_of, is_watched, stamp_of
from cloudq_aws.lean.reading import GOOD, answer_of, reader
from cloudq_aws.lean.request import Pattern, pattern_of, written

# Operations whose parameters and answers have on the wire the form that boto3 gives them.
_OPERATIONS: Mapping[str, frozenset[str]] = {
    "sqs": frozenset(
        {
            "SendMessageBatch",
            "ReceiveMessage",
            "DeleteMessageBatch",
            "ChangeMessageVisibilityBatch",
        }
    ),
    "dynamodb": frozenset({"BatchWriteItem", "BatchGetItem", "UpdateItem", "PutItem", "Query"}),
}

_Params = dict[str, Any]
_Answer = dict[str, Any]
_Send = Callable[[Any], Any]


def hasten(client: Any) -> None:
    """Have a client make its frequent calls in fewer steps; a client that has none stays."""
    operations = _OPERATIONS.get(client.meta.service_model.service_name)
    if operations is not None:
        client._make_api_call = Calls(client, operations)


@dataclass(frozen=True, slots=True)
class _Way:
    """The short way of an operation: how it is asked, over which pool, and how its answer is read.

    `timeout` is in seconds.
    """

    model: Any
    pattern: Pattern
    hooks: Hooks
    pool: ReferenceType[Any]
    timeout: float | None
    read: Callable[[bytes], _Answer]


class _Mine(threading.local):
    """The function that sends the first request of this thread's call; None for boto3's own."""

    send: _Send | None = None


class Calls:
    """Makes the calls of a client in place of `_make_api_call`, which all its methods go by."""

    def __init__(self, client: Any, operations: frozenset[str]) -> None:
        self._client = client
        self._session = client._endpoint.http_session
        self._operations = operations
        self._ways: dict[str, _Way] = {}
        self._readers: dict[str, Callable[[bytes], _Answer]] = {}
        self._mine = _Mine()
        client._endpoint._send = self._send

    def __call__(self, name: str, params: _Params) -> _Answer:
        if name not in self._operations or is_watched():
            return self._plain(name, params)
        way = self._ways.get(name)
        if way is None or way.hooks.stamp is not stamp_of(self._client):
            return self._plain(name, params, partial(self._learn, name))
        context: dict[str, Any] = {}
        given = params
        for give in way.hooks.given:
            given = give(params=given, context=context, model=way.model) or given
        body = written(given)
        credentials = self._credentials()
        if body is None or credentials is None or not way.pattern.takes(credentials):
            return self._plain(name, params, partial(self._learn, name))
        pool = way.pool()  # whoever closes the client drops it, which closes its connections
        if pool is None:
            return self._plain(name, params, partial(self._learn, name))
        kept = Kept.take(pool)
        if kept is None:
            return self._plain(name, params)
        id = str(uuid.uuid4())
        try:
            request = way.pattern.request(body, credentials, id, _trace())
            answered = kept.exchange.ask(request, way.timeout)
            answer = None if answered is None else answer_of(way.read, kept.exchange.head, answered)
            if answer is None:
                return self._plain(name, params, partial(self._resume, kept, id))
            kept.give_back()
        except BaseException:
            kept.drop()
            raise
        for told in way.hooks.retries:
            told(response=(GOOD, answer), operation=way.model, attempts=1, caught_exception=None)
        for told in way.hooks.after:
            told(http_response=GOOD, parsed=answer, model=way.model, context=context)
        return answer

    def go_on(self, name: str, params: _Params, exchange: Exchange, id: str) -> _Answer:
        """Make a call whose first request was sent, under this id, before there was a client."""

        def send(request: Any) -> Any:
            pool = self._session._manager.connection_from_url(request.url)
            return self._resume(Kept.begun(pool, exchange), id, request)

        return self._plain(name, params, send)

    def _resume(self, kept: Kept, id: str, request: Any) -> Any:
        """Go on with the first try of a call, whose further tries have the same id."""
        context: dict[str, Any] = getattr(request, "context", None) or {}
        context.get("retries", {})["invocation-id"] = id
        return kept.resume(self._session, request)

    def _credentials(self) -> Any:
        """Return the credentials of this moment, which botocore renews; None without any."""
        found = self._client._request_signer._credentials
        return None if found is None else found.get_frozen_credentials()

    def _plain(self, name: str, params: _Params, send: _Send | None = None) -> _Answer:
        """Make a call by boto3's own method; its first request is sent by `send`."""
        self._mine.send = send
        try:
            return self._client.__class__._make_api_call(self._client, name, params)
        finally:
            self._mine.send = None

    def _send(self, request: Any) -> Any:
        """Send a request, in place of the endpoint's own method."""
        send = self._mine.send
        endpoint = self._client._endpoint
        if send is None:
            return endpoint.__class__._send(endpoint, request)
        self._mine.send = None
        return send(request)

    def _learn(self, name: str, request: Any) -> Any:
        """Send a request as boto3 does, and have the next ones go the short way, if they can."""
        way = self._way(name, request)
        if way is None:
            self._ways.pop(name, None)
        else:
            self._ways[name] = way
        return self._send(request)

    def _way(self, name: str, request: Any) -> _Way | None:
        session: Any = self._session
        client = self._client
        hooks = hooks_of(client, name)
        if hooks is None or not _is_direct(session, request.url):
            return None
        pattern = pattern_of(request, self._credentials())
        if pattern is None:
            return None
        model = client.meta.service_model.operation_model(name)
        read = self._readers.get(name) or reader(model.output_shape)
        self._readers[name] = read
        pool = session._manager.connection_from_url(request.url)
        return _Way(model, pattern, hooks, ref(pool), pool.timeout.read_timeout, read)


def _is_direct(session: Any, url: str) -> bool:
    """Tell whether a session is botocore's own, and takes no proxy to an address."""
    return type(session) is URLLib3Session and not cast("Any", session)._proxy_config.proxy_url_for(
        url
    )


def _trace() -> str:
    """Return the header line of Lambda's trace, by botocore's own hook; empty elsewhere."""
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
        return ""
    headers: dict[str, str] = {}
    add_recursion_detection_header(params={"headers": headers})
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
