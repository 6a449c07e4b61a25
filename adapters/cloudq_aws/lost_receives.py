"""Keeps short what a receive whose answer is lost costs: its messages are leased, and to nobody.

On a standard queue they come again when their lease ends. So while answers are lost a receive asks
for a short lease, which whoever holds the messages extends (`Delivery.lease` tells its length). On
a FIFO queue a receive can be repeated: under its old id SQS gives the same messages again.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cloudq.clock import Clock
from cloudq.driver import Code
from cloudq_aws.errors import error_code
from cloudq_aws.lean.early import listen

if TYPE_CHECKING:
    from botocore.model import OperationModel

# The lease of a receive, in seconds, for as long as this after an answer was lost.
_SHORT = 5
_WARY_FOR = 60.0
# SQS forgets the id of a receive after this.
_REPEATABLE_FOR = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A receive of a FIFO queue: its id, what it asks for, and until when it can be repeated."""

    id: str
    count: int
    until: float


class LostReceives:
    """Remembers the receives of a client that were not answered. Safe to use from many threads."""

    def __init__(self, *, now: Clock = time.monotonic) -> None:
        self._now = now
        self._lost_at: float | None = None
        self._lock = threading.Lock()
        self._unanswered: dict[str, Attempt] = {}  # by queue

    def watch(self, client: object) -> None:
        """Look at every try of a request, those that the SDK repeats included.

        Where answers of sends and acks are lost, those of receives are next.
        """
        listen(client, "needs-retry.sqs", self._tried)

    def lease(self, wanted: int) -> int:
        """Return the seconds of the lease that the next receive asks for."""
        lost_at = self._lost_at
        wary = lost_at is not None and self._now() - lost_at < _WARY_FOR
        return min(wanted, _SHORT) if wary else wanted

    def attempt(self, queue: str, count: int, lease: float) -> Attempt:
        """Begin a receive of a FIFO queue: a new one, or again the one that was not answered.

        An old one asks for as many messages as before. Once its lease has ended they may be
        another's, and it is forgotten.
        """
        now = self._now()
        with self._lock:
            old = self._unanswered.get(queue)
            if old is not None and (old.until <= now or old.count <= count):
                del self._unanswered[queue]
                if old.until > now:
                    return old
        until = now + min(lease, _REPEATABLE_FOR)
        return Attempt(id=uuid.uuid4().hex, count=count, until=until)

    def unanswered(self, queue: str, attempt: Attempt) -> None:
        """Note that a receive failed, to make it again."""
        with self._lock:
            self._unanswered[queue] = attempt

    def _tried(
        self,
        *,
        response: tuple[Any, Mapping[str, Any]] | None,
        operation: OperationModel,
        caught_exception: Exception | None,
        **_: object,
    ) -> None:
        if caught_exception is None and (response is None or "Error" not in response[1]):
            return
        # This is called by botocore alone, and a function that needs none does not load it.
        import botocore.exceptions as sdk

        # Without a connection the service has not seen the request.
        never_sent = (
            sdk.EndpointConnectionError,
            sdk.ConnectTimeoutError,
            sdk.ProxyConnectionError,
        )
        error = caught_exception
        if response is not None and "Error" in response[1]:
            error = sdk.ClientError(cast("Any", response[1]), operation.name)
        if error is None or isinstance(error, never_sent):
            return
        if error_code(error) is Code.UNREACHABLE:
            self._lost_at = self._now()
