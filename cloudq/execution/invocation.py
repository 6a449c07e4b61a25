"""Runs messages that a function's platform has leased, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from cloudq.broker.broker import Refused
from cloudq.driver import Code, Delivery, PlatformDeadLetters
from cloudq.driver.log import Log
from cloudq.errors import BackendError, BrokerError, CloudQError, DecodeError, KeyServiceError
from cloudq.execution.bundles import Part, bury
from cloudq.execution.consume import Consumer
from cloudq.execution.dead_reason import dead_reason
from cloudq.execution.deadline import Deadline, released
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import (
    DELIVERED,
    Action,
    Batch,
    Settled,
    Settlement,
    come_back,
    delivered_before,
)
from cloudq.messages.bundle import Bundle, Unread
from cloudq.messages.codec import Codec
from cloudq.messages.message import TaskMessage

KEPT = frozenset({Action.RELEASE, Action.NOTHING})
"""The actions that leave a message with its platform, unacked."""

# The starts of plain bodies, in which headers can be searched as text.
_PLAIN = (b'{"v":1,', b'{"v":3,')
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
        log: Log,
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
        done = self._wholes(self.consume(deliveries))
        kept = [pair for pair in done if pair[1].action in KEPT]
        for delivery, settlement in kept:
            self.log.warning(
                "message %s stays in %s: %s", delivery.id, delivery.queue, settlement.reason
            )
        return kept

    def _wholes(self, pairs: Sequence[Settled]) -> list[Settled]:
        """Put in place of the calls of a bundle what becomes of its message."""
        done: list[Settled] = []
        for pair in pairs:
            part, settlement = pair
            if not isinstance(part, Part):
                done.append(pair)
            elif part.parcel.settled(part, settlement):
                whole = part.parcel.whole
                try:
                    done.append((whole, part.parcel.end(self.broker, self.executor.clock())))
                except BrokerError as error:
                    reason = f"the rest of its bundle cannot be sent on: {error}"
                    done.append((whole, Settlement(action=Action.RELEASE, reason=reason)))
        return done

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries into jobs and outcomes; release all of them when the store is down."""
        counted = deliveries
        try:
            counted = [_counted(delivery, self.broker.codec) for delivery in deliveries]
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
                reason = dead_reason(settlement, self.broker)
                if isinstance(delivery, Part):
                    refused = self._bury(delivery, reason)
                else:
                    refused = self.broker.bury([delivery], reason=reason)
            ended.append(_back(pair, refused[0].reason) if refused else pair)
        return ended

    def _bury(self, part: Part, reason: str) -> list[Refused]:
        """Put a call of a bundle among the dead letters, or let it come alone, to end up there."""
        call = part.call
        if isinstance(call, Unread) or isinstance(self.broker.driver, PlatformDeadLetters):
            return bury([part], reason, self.broker)
        try:
            self.broker.send([come_back(call, part.attempts, queue=part.queue)])
        except BrokerError as error:
            return [Refused(delivery=part, code=Code(error.code), reason=str(error))]
        return []

    def commit(self, pairs: Sequence[Settled]) -> Batch:
        """Make outcomes durable, and log those that are."""
        self._queues |= {delivery.queue for delivery, _ in pairs}
        batch = super().commit(pairs)
        # The platform acks later: what has no end on record may come again, and keeps its payloads.
        self.free([pair for pair in batch.ready if pair[1].record is not None])
        return batch

    def resend(self, kept: Sequence[Settled]) -> None:
        """Send copies of kept messages, so that the platform may ack the originals too.

        This is for platforms that take one answer for a whole batch. A copy carries the number of
        earlier deliveries. Raises `NotSettled`, or the broker's error, when a message cannot be
        copied: then the whole batch must come back.
        """
        ours = [pair for pair in kept if pair[1].action is Action.RELEASE]
        codec, now = self.broker.codec, self.executor.clock()
        copies = [copy for pair in ours for copy in _copies(*pair, codec, now)]
        if copies:
            self.broker.send(copies)


def _back(pair: Settled, reason: str) -> Settled:
    delivery, settlement = pair
    return delivery, replace(settlement, action=Action.RELEASE, after=0.0, reason=reason)


def _copies(
    delivery: Delivery, settlement: Settlement, codec: Codec, now: float
) -> list[TaskMessage]:
    """Copy the call of a delivery, or the calls of a bundle."""
    try:
        calls = _calls(delivery, codec)
    except DecodeError as error:
        raise NotSettled(f"{settlement.reason}; it cannot be copied: {error}") from error
    copies: list[TaskMessage] = []
    for message in calls:
        due = now + settlement.after if settlement.after else message.not_before
        attempts = delivery.attempts
        copies.append(come_back(message, attempts, queue=delivery.queue, not_before=due))
    return copies


def _calls(delivery: Delivery, codec: Codec) -> list[TaskMessage]:
    """Read the calls of a delivery, all of them. Raises `DecodeError`."""
    read = codec.read(delivery.body, queue=delivery.queue, limit=codec.limit)
    if not isinstance(read, Bundle):
        return [read]
    calls: list[TaskMessage] = []
    for call in read.calls:
        if isinstance(call, Unread):
            raise DecodeError(call.reason)
        calls.append(call)
    return calls


def _counted(delivery: Delivery, codec: Codec) -> Delivery:
    """Add the deliveries of the message that a copy replaces to those of the copy."""
    if delivery.body.startswith(_PLAIN) and DELIVERED.encode() not in delivery.body:
        return delivery
    try:
        calls = _calls(delivery, codec)
    except (DecodeError, KeyServiceError):  # the executor reports what is wrong with it
        return delivery
    before = delivered_before(calls[0])
    if DELIVERED not in calls[0].headers:
        return delivery  # unchanged, so that a dead letter keeps the original bytes
    plain = [
        call.model_copy(
            update={"headers": {k: v for k, v in call.headers.items() if k != DELIVERED}}
        )
        for call in calls
    ]
    try:
        body = codec.encode(plain[0]) if len(plain) == 1 else codec.encode_bundle(plain)
    except CloudQError:  # it stays as it is; the executor tells what is wrong with it
        body = delivery.body
    return replace(delivery, body=body, attempts=delivery.attempts + before)
