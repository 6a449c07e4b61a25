"""Batches: calls that are collected, and sent together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self, TypeVar

from cloudq.amounts import counted
from cloudq.broker.retry import PublishPolicy
from cloudq.driver import Code
from cloudq.errors import (
    CloudQError,
    ConfigurationError,
    InvalidArguments,
    MessageTooLarge,
    PublishError,
    Rejected,
    ServiceError,
)
from cloudq.messages.ids import MOST_OF_A_BUNDLE
from cloudq.messages.message import TaskMessage
from cloudq.publishing.numbers import Numbers
from cloudq.results.result import AsyncResult
from cloudq.results.waiting import Promise

R = TypeVar("R")

Post = Callable[..., None]
"""Sends messages with policies: a publisher's `post`."""

OPEN: ContextVar[Batch | None] = ContextVar("batch", default=None)
"""The batch that collects the calls of this thread or coroutine."""

# Calls that are collected before they are sent, and the most of a bundle's neighbours.
_FULL = 1000


class Batch:
    """Collects the calls that are made in its block, and sends them at its end, or when it is full.

    With `bundle` up to so many calls go in one message. The results are there at once, but can be
    waited for only when their calls are sent. Calls of `unique` tasks and workflows are not
    collected. Safe to use from many threads.

    At the end of the block `PublishError` names the calls that were refused; the others are sent.
    They are sent too where the block raises: a batch is no transaction.
    """

    def __init__(self, owner: object, post: Post, numbers: Numbers) -> None:
        self.owner = owner
        self.numbers = numbers
        self._post = post
        self._full = max(_FULL, min(10 * (numbers.size or 1), MOST_OF_A_BUNDLE))
        self._lock = threading.Lock()
        self._calls: list[tuple[TaskMessage, PublishPolicy | None, AsyncResult[Any]]] = []
        self._named = False
        self._sent = 0
        self._rejected: list[Rejected] = []
        self._token: Token[Batch | None] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise InvalidArguments("a batch is opened once: make another with app.batch()")
        self._token = OPEN.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._token is not None, "the end of a block that was not begun"
        OPEN.reset(self._token)
        try:
            self.send()
        except PublishError as refused:
            if error is None:
                raise
            error.add_note(f"and of the batch around it, {refused}")

    def take(
        self,
        message: TaskMessage,
        policy: PublishPolicy | None,
        result: AsyncResult[R],
        *,
        named: bool,
    ) -> AsyncResult[R]:
        """Collect a call, and send all when they are enough; return the result."""
        result.promise = Promise(early=_EARLY, dropped=_DROPPED)
        with self._lock:
            self._calls.append((message, policy, result))
            self._named = self._named or named
            full = self._taken() if len(self._calls) >= self._full else []
        if full:
            self._send(full)
        return result

    def send(self) -> None:
        """Send what is collected. Raises `PublishError` for all calls refused since the last time.

        Their `index` is their place among all calls of the batch.
        """
        with self._lock:
            left = self._taken()
        self._send(left)
        with self._lock:
            rejected, self._rejected = self._rejected, []
        if rejected:
            first = rejected[0]
            raise PublishError(
                f"{len(rejected)} of {counted(self._sent, 'call')} not sent: "
                f"{first.id}: {first.reason} ({first.code})",
                code=first.code,
                rejected=rejected,
            )

    def _taken(self) -> list[tuple[TaskMessage, PublishPolicy | None, AsyncResult[Any]]]:
        taken, self._calls = self._calls, []
        return taken

    def _send(
        self, calls: Sequence[tuple[TaskMessage, PublishPolicy | None, AsyncResult[Any]]]
    ) -> None:
        if not calls:
            return
        with self._lock:
            first, self._sent = self._sent, self._sent + len(calls)
        messages = [message for message, _, _ in calls]
        policies = {message.id: policy for message, policy, _ in calls if policy is not None}
        try:
            refused = self._refused(messages, policies)
        except BaseException:
            for _, _, result in calls:
                _drop(result)
            raise
        for place, (_, _, result) in enumerate(calls):
            if place in refused:
                _drop(result)
            else:
                result.promise = None
        with self._lock:
            self._rejected += [
                Rejected(index=first + place, id=each.id, code=each.code, reason=each.reason)
                for place, each in refused.items()
            ]

    def _refused(
        self, messages: Sequence[TaskMessage], policies: Mapping[str, PublishPolicy]
    ) -> dict[int, Rejected]:
        """Send messages, and return those that were refused, by place."""
        try:
            self._post(messages, policies, named=self._named)
        except PublishError as error:
            return {rejected.index: rejected for rejected in error.rejected}
        except CloudQError as error:  # one of them cannot be sent, so none was
            if len(messages) == 1:
                return {0: _rejected(messages[0], error)}
            single = [self._refused([message], policies) for message in messages]
            return {at: found[0] for at, found in enumerate(single) if found}
        return {}


_EARLY = "{id} is sent at the end of its batch: get() before that would wait in vain"
_DROPPED = "{id} was not sent: its batch says why"


def _drop(result: AsyncResult[Any]) -> None:
    if result.promise is not None:
        result.promise.drop()


def _rejected(message: TaskMessage, error: CloudQError) -> Rejected:
    code: str = Code.INVALID
    if isinstance(error, MessageTooLarge):
        code = Code.TOO_LARGE
    elif isinstance(error, ServiceError):
        code = error.code
    return Rejected(index=0, id=message.id, code=code, reason=str(error))


def checked_bundle(bundle: int | None, where: str = "bundle") -> int | None:
    """Check the number of calls in a bundle; 1 is none. Raises `ConfigurationError`."""
    from cloudq.amounts import count

    if bundle is None:
        return None
    checked = count(bundle, where, ConfigurationError, least=1, most=MOST_OF_A_BUNDLE)
    return checked if checked > 1 else None
