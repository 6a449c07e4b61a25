"""Makes frequent calls before botocore is loaded, and loads it for the first that needs it."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import quote

from cloudq_aws.lean.exchange import Exchange
from cloudq_aws.lean.reading import GOOD, answer_of, reader
from cloudq_aws.lean.request import Pattern, written
from cloudq_aws.lean.services import Service
from cloudq_aws.lean.sockets import Sockets
from cloudq_aws.lean.surroundings import Keys, is_alone

_Answer = dict[str, Any]
_Hook = Callable[..., Any]

# As of the clients of botocore here, in seconds.
_TIMEOUT = 30.0
_GIVEN, _AFTER = "provide-client-params.", "after-call."
_WORD = re.compile("(?<=[a-z])(?=[A-Z])")


def listen(client: object, event: str, hook: _Hook) -> None:
    """Have a client tell a hook of an event of botocore."""
    if isinstance(client, Early):
        client.listen(event, hook)
    else:
        cast("Any", client).meta.events.register(event, hook)


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation as hooks see it, its method, and how it is asked and answered."""

    name: str
    method: str
    pattern: Pattern
    read: Callable[[bytes], _Answer]


class _Meta:
    """The facts of a client that are known before there is one; the others are botocore's."""

    def __init__(self, client: Early, region: str, url: str) -> None:
        self._client = client
        self.region_name = region
        self.endpoint_url = url.rstrip("/")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client.whole().meta, name)


class Early:
    """A client of a service that has botocore's methods, and loads it at the first need.

    A call of `service` whose answer is plain and good goes without it. Anything else is done by
    the client that `make` makes; an exchange that has begun is handed to it, so that it judges,
    waits and tries again by its own rules. From then on, that client makes all calls.
    """

    def __init__(
        self, service: Service, keys: Keys, region: str, url: str, make: Callable[[str], object]
    ) -> None:
        self._service = service
        self._keys = keys
        self._make = make
        self._sockets = Sockets(url)
        self._hooks: list[tuple[str, _Hook]] = []
        self._lock = threading.Lock()
        self._whole: Any = None
        self.meta = _Meta(self, region, url)
        for name, shape in service.answers.items():
            method = _WORD.sub("_", name).lower()
            pattern = service.pattern(name, region, url, has_token=keys.token is not None)
            operation = _Operation(name, method, pattern, reader(shape))
            setattr(self, method, partial(self._call, operation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)

    def listen(self, event: str, hook: _Hook) -> None:
        """Have a hook told of an event, by this client and by the one in its place."""
        with self._lock:
            self._hooks.append((event, hook))
            if self._whole is not None:
                self._whole.meta.events.register(event, hook)

    def whole(self) -> Any:
        """Return the client of botocore, made at the first call."""
        with self._lock:
            if self._whole is None:
                made: Any = self._make(self._service.name)
                for event, hook in self._hooks:
                    made.meta.events.register(event, hook)
                self._whole = made
                self._sockets.close()
            return self._whole

    def close(self) -> None:
        """Close the connections."""
        self._sockets.close()
        if self._whole is not None:
            self._whole.close()

    def _call(self, operation: _Operation, **params: Any) -> _Answer:
        if self._whole is not None or not is_alone():
            return self._wholly(operation, params)
        context: dict[str, Any] = {}
        given: Mapping[str, Any] = params
        for give in self._heard(_GIVEN):
            given = give(params=given, context=context, model=operation) or given
        body = written(given)
        connection = None if body is None else self._sockets.take()
        if body is None or connection is None:
            return self._wholly(operation, params)
        id = str(uuid.uuid4())
        exchange = Exchange(connection)
        try:
            request = operation.pattern.request(body, self._keys, id, _trace())
            answered = exchange.ask(request, _TIMEOUT)
        except BaseException:
            connection.close()
            raise
        answer = None if answered is None else answer_of(operation.read, exchange.head, answered)
        if answer is None:
            return self.whole()._make_api_call.go_on(operation.name, params, exchange, id)
        self._sockets.keep(connection)
        for tell in self._heard(_AFTER):
            tell(http_response=GOOD, parsed=answer, model=operation, context=context)
        return answer

    def _heard(self, event: str) -> list[_Hook]:
        return [hook for name, hook in self._hooks if name.startswith(event)]

    def _wholly(self, operation: _Operation, params: dict[str, Any]) -> _Answer:
        made: _Answer = getattr(self.whole(), operation.method)(**params)
        return made


def _trace() -> str:
    """Return the header line of Lambda's trace, as botocore writes it; empty elsewhere."""
    trace = os.environ.get("_X_AMZN_TRACE_ID")
    if not trace or "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
        return ""
    return f"X-Amzn-Trace-Id: {quote(trace, safe=_SAFE)}\r\n"


_SAFE = "-=;:+&[]{}\"',"
