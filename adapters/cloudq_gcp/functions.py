"""Functions on Google Cloud that run an app's tasks, one pushed message an invocation.

`cloud_event_handler(app)` takes the CloudEvents of a Pub/Sub trigger; `push_handler(app)` takes
the requests of a push subscription, under functions-framework or any web framework.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from google.auth.exceptions import TransportError

from cloudq.app import CloudQ
from cloudq.driver import loader as plugins
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError
from cloudq.execution.deadline import Deadline
from cloudq.execution.invocation import Invocation, NotSettled
from cloudq_gcp.push import (
    CERTS_URL,
    LARGEST,
    ForeignBody,
    Pushed,
    Tokens,
    Unproven,
    from_event,
    from_request,
)
from cloudq_gcp.queues import QUEUE

log = Log("cloudq.functions")

# Cloud Run allows five minutes where it sets no time; Pub/Sub redelivers sooner.
_TIMEOUT = 60.0
_PROJECTS = (
    "topics of Pub/Sub push CloudEvents of type google.cloud.pubsub.topic.v1.messagePublished"
)


class Event(Protocol):
    """The part of a `cloudevents.http.CloudEvent` that is used here."""

    @property
    def data(self) -> Any: ...

    def __getitem__(self, key: str) -> Any: ...


class Request(Protocol):
    """The part of a web request that is used here: Flask's, or any of Werkzeug's."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def get_data(self) -> bytes: ...


def cloud_event_handler(
    app: CloudQ, *, queue: str | None = None, timeout: float | None = None, reserve: float = 5.0
) -> Callable[[Event], None]:
    """Make the function for a Pub/Sub trigger, to be given to `functions_framework.cloud_event`.

    The name of the function that it returns is `handler`: functions-framework takes a target
    of another name for an HTTP function, unless its signature type is set.

    A message is acked by returning and comes back by raising `NotSettled`. It runs as one of
    `queue`; left out, of its topic, or else its subscription, or the app's default queue.
    `timeout` is what the function has for one message, in seconds: the shorter of its own
    timeout and the subscription's ack deadline; left out, `CLOUD_RUN_TIMEOUT_SECONDS`, or 60.
    Deliveries are counted where the subscription has a dead-letter policy, and only there: a
    message that is put back each time comes back for ever without one.
    No task is started with less than its hard time limit left, or `reserve` seconds if it has
    none. Modules in `include` are imported here. Raises `ConfigurationError`.
    """
    messages = _Messages(app, queue=queue, timeout=timeout, reserve=reserve)

    def handler(event: Event) -> None:
        try:
            pushed = from_event(event["source"], event.data)
        except ForeignBody as error:
            raise ConfigurationError(f"{error}: {_PROJECTS}") from error
        why = messages.run(pushed)
        if why is not None:
            raise NotSettled(f"message {pushed.id} comes back: {why}")

    return handler


def push_handler(
    app: CloudQ,
    *,
    audience: str | Sequence[str] = (),
    email: str = "",
    verify: bool = True,
    queue: str | None = None,
    timeout: float | None = None,
    reserve: float = 5.0,
    certs_url: str = CERTS_URL,
) -> Callable[[Request], tuple[str, int]]:
    """Make the function for a push subscription, to be given to `functions_framework.http`.

    It takes a request of Flask (or any of Werkzeug's) and returns a text and a status, which
    Flask makes a response of; `PushEndpoint`, with the same options, is for other frameworks.
    The other options are those of `cloud_event_handler`. Raises `ConfigurationError`.
    """
    endpoint = PushEndpoint(
        app,
        audience=audience,
        email=email,
        verify=verify,
        queue=queue,
        timeout=timeout,
        reserve=reserve,
        certs_url=certs_url,
    )

    def handler(request: Request) -> tuple[str, int]:
        refused = endpoint.refusal(request.headers)  # before the body is read
        status, text = refused or endpoint.settle(request.headers, request.get_data())
        return text, status

    return handler


class PushEndpoint:
    """Answers the requests of a push subscription, whatever the web framework.

    A request must carry an OIDC token for `audience` (one, or any of several) of the service
    account `email`, as the subscription's authentication says. `verify=False` takes everybody's
    requests: for an emulator, or where something in front of it has checked them.

    Pub/Sub takes every status that is no success for a nack. So a message that came is acked
    as soon as it is settled (204), though it be by its burial: 2xx is never a foreign body.
    503 says that it stays, 401 and 403 that the token is wrong, and 400 that this is no push of
    Pub/Sub at all, which nobody but a stranger or a subscription without metadata sends.
    """

    def __init__(
        self,
        app: CloudQ,
        *,
        audience: str | Sequence[str] = (),
        email: str = "",
        verify: bool = True,
        queue: str | None = None,
        timeout: float | None = None,
        reserve: float = 5.0,
        certs_url: str = CERTS_URL,
    ) -> None:
        audiences = [audience] if isinstance(audience, str) else list(audience)
        if verify and not (email and audiences and all(audiences)):
            raise ConfigurationError(
                "a push endpoint needs audience= and email=, those of the push subscription's "
                "authentication; verify=False takes requests of anybody"
            )
        self._messages = _Messages(app, queue=queue, timeout=timeout, reserve=reserve)
        tokens = Tokens(audience=audiences, email=email, certs_url=certs_url)
        self._tokens = tokens if verify else None

    def answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Return the status and the text that answer a request."""
        return self.refusal(headers) or self.settle(headers, body)

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return the answer to a request that is refused for its headers alone; None for others.

        A server that calls it first need not read the bodies of strangers. `settle` does the rest.
        """
        named = _lower(headers)
        try:
            if self._tokens is not None:
                self._tokens.check(named.get("authorization"))
        except Unproven as error:
            return _refused(error.status, str(error))
        except TransportError as error:
            return _refused(503, f"Google's keys cannot be fetched: {error}")
        length = named.get("content-length", "")
        if len(length) > 12 or (length.isdecimal() and int(length) > LARGEST):
            return _refused(413, "no push of Pub/Sub has so many bytes")
        return None

    def settle(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Settle the message of a request that `refusal` has let through, and return the answer."""
        try:
            pushed = from_request(_lower(headers), body)
        except ForeignBody as error:
            return _refused(400, str(error))
        why = self._messages.run(pushed)
        if why is not None:
            return 503, f"message {pushed.id} comes back: {why}"
        return 204, ""


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _refused(status: int, why: str) -> tuple[int, str]:
    log.warning("a push request is answered with %d: %s", status, why)
    return status, why


class _Messages:
    """Runs pushed messages, each in an invocation of its own. Safe to use from many threads."""

    def __init__(
        self, app: CloudQ, *, queue: str | None, timeout: float | None, reserve: float
    ) -> None:
        if timeout is None:
            timeout = float(os.environ.get("CLOUD_RUN_TIMEOUT_SECONDS") or _TIMEOUT)
        if timeout <= 0 or reserve < 0:
            raise ConfigurationError(f"timeout={timeout} and reserve={reserve}: over 0, at least 0")
        app.load()
        hostname = os.environ.get("K_REVISION") or "function"
        self._app = app
        self._queue_of = queue_namer(app, queue)
        self._timeout = timeout
        self._reserve = reserve
        self._executor = app.executor(hostname=hostname, stop_at_hard_limit=True)
        if "K_SERVICE" in os.environ:
            # A new Cloud Run instance starts with more CPU, and shows errors early.
            _ = app.broker, app.backend

    def run(self, pushed: Pushed) -> str | None:
        """Settle a message; return why it must come back, or None if it may be acked."""
        deadline = Deadline.after(self._timeout, reserve=self._reserve)
        delivery = pushed.delivery(self._queue_of(pushed), self._timeout)
        invocation = Invocation(
            self._executor,
            deadline=deadline,
            log=log,
        )
        with invocation:
            kept = invocation.run([delivery])
        return kept[0][1].reason if kept else None


def queue_namer(app: CloudQ, queue: str | None) -> Callable[[Pushed], str]:
    """Make the function that finds a message's queue by the names in the broker's URL."""
    options = plugins.parse(app.conf.broker).options
    prefix = options.get("prefix", "")
    before, _, after = options.get("subscription", QUEUE).partition(QUEUE)
    named = re.compile(re.escape(before) + r"(.+)" + re.escape(after))

    def name(pushed: Pushed) -> str:
        if queue is not None:
            return queue
        match = named.fullmatch(pushed.subscription or "")
        found = pushed.topic or (match[1] if match else None)
        return (found or "").removeprefix(prefix) or app.conf.task_default_queue

    return name
