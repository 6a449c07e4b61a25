"""Runs messages that a function's platform has leased, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from cloudq.broker.broker import Refused
from cloudq.driver import Delivery
from cloudq.errors import BackendError, CloudQError, DecodeError
from cloudq.execution.consume import Consumer
from cloudq.execution.deadline import Deadline, released
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Batch, Settled, Settlement, copy_of
from cloudq.messages.codec import Codec
from cloudq.messages.message import MOST, TaskMessage

KEPT = frozenset({Action.RELEASE, Action.NOTHING})
"""The actions that leave a message with its platform, unacked."""

# The header of a copy with the number of deliveries of its original.
_DELIVERED = "cloudq-delivered"
# The start of a plain body, in which headers can be searched as text.
_PLAIN = b'{"v":1,'
# The shortest time between two looks for delayed messages, in seconds.
_DELAYED_EVERY = 5.0
# Delayed messages are sent only if this much time is left, in seconds.
_SPARE = 1.0


class NotSettled(CloudQError):
    """Raised when a message stays in its queue; the text says why."""


class Invocation(Consumer):
    """Runs tasks within one call of a cloud function by its platform.

    Use as a context manager: at the end, if time is left, it sends delayed messages of its queues
    that are due. `log` is the platform's logger; `heard` is called with each outcome.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        deadline: Deadline,
        log: logging.Logger,
        heard: Callable[[Settlement], None] | None = None,
    ) -> None:
        super().__init__(executor, log=log, heard=heard, tries=2)
        self.deadline = deadline
        self._queues: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._send_delayed()

    def _send_delayed(self) -> None:
        for queue in filter(self.broker.stores_delayed, sorted(self._queues)):
            try:
                if self.deadline.until_late() >= _SPARE:
                    self.broker.send_delayed(queue, every=_DELAYED_EVERY)
            except Exception as error:  # the platform must still get its answer
                self.log.warning("delayed messages of %s are not sent yet: %s", queue, error)

    # ---- messages

    def run(self, deliveries: Sequence[Delivery]) -> list[Settled]:
        """Run messages in their order, make each outcome durable, and return those to keep unacked.

        The platform may ack all others: dead letters are moved by then. Never raises
        `ServiceError`.
        """
        kept = [pair for pair in self.consume(deliveries) if pair[1].action in KEPT]
        for delivery, settlement in kept:
            self.log.warning(
                "message %s stays in %s: %s", delivery.id, delivery.queue, settlement.reason
            )
        return kept

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries into jobs and outcomes; release all of them when the store is down."""
        counted = [_counted(delivery, self.broker.codec) for delivery in deliveries]
        try:
            return super().open(counted)
        except BackendError as down:
            self.log.error("all %d messages stay: %s", len(counted), down)
            back = Settlement(action=Action.RELEASE, reason=str(down))
            return [], [(delivery, back) for delivery in counted]

    def run_job(self, job: Job) -> Settlement:
        """Call the task of a job within the time that is left, or release it unrun."""
        if not self.deadline.permits(self.executor.limits(job.message)[1]):
            return released(job)
        return self.deadline.run(self.executor, job)

    def finish(self, pairs: Sequence[Settled]) -> list[Settled]:
        """Make outcomes durable and dead-letter messages; release those where that failed."""
        batch = self.commit(pairs)
        ended = [_back(pair, f"not recorded: {batch.error}") for pair in batch.failed]
        for pair in batch.ready:
            delivery, settlement = pair
            refused: Sequence[Refused] = ()
            if settlement.action is Action.DEAD_LETTER:
                refused = self.broker.bury([delivery], reason=settlement.reason)
            ended.append(_back(pair, refused[0].reason) if refused else pair)
        return ended

    def commit(self, pairs: Sequence[Settled]) -> Batch:
        """Make outcomes durable, and log those that are."""
        self._queues |= {delivery.queue for delivery, _ in pairs}
        return super().commit(pairs)

    def resend(self, kept: Sequence[Settled]) -> None:
        """Send copies of kept messages, so that the platform may ack the originals too.

        This is for platforms that take one answer for a whole batch. A copy carries the number of
        earlier deliveries. Raises `NotSettled`, or the broker's error, when a message cannot be
        copied: then the whole batch must come back.
        """
        ours = [pair for pair in kept if pair[1].action is Action.RELEASE]
        codec, now = self.broker.codec, self.executor.clock()
        copies = [_copy(delivery, settlement, codec, now) for delivery, settlement in ours]
        if copies:
            self.broker.send(copies)


def _back(pair: Settled, reason: str) -> Settled:
    delivery, settlement = pair
    return delivery, replace(settlement, action=Action.RELEASE, after=0.0, reason=reason)


def _copy(delivery: Delivery, settlement: Settlement, codec: Codec, now: float) -> TaskMessage:
    try:
        message = codec.decode(delivery.body, queue=delivery.queue, limit=codec.limit)
    except DecodeError as error:
        raise NotSettled(f"{settlement.reason}; it cannot be copied: {error}") from error
    headers = {**message.headers, _DELIVERED: str(delivery.attempts)}
    due = now + settlement.after if settlement.after else message.not_before
    return copy_of(message, queue=delivery.queue, headers=headers, not_before=due)


def _counted(delivery: Delivery, codec: Codec) -> Delivery:
    """Add the deliveries of the message that a copy replaces to those of the copy."""
    if delivery.body.startswith(_PLAIN) and _DELIVERED.encode() not in delivery.body:
        return delivery
    try:
        message = codec.decode(delivery.body, queue=delivery.queue, limit=codec.limit)
        before = int(message.headers.get(_DELIVERED, "0"))
    except (DecodeError, ValueError):  # the executor reports what is wrong with it
        return delivery
    if _DELIVERED not in message.headers:
        return delivery  # unchanged, so that a dead letter keeps the original bytes
    headers = {name: value for name, value in message.headers.items() if name != _DELIVERED}
    try:
        body = codec.encode(message.model_copy(update={"headers": headers}))
    except CloudQError:  # it stays as it is; the executor tells what is wrong with it
        body = delivery.body
    return replace(delivery, body=body, attempts=delivery.attempts + min(max(0, before), MOST))
