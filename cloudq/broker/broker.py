"""The portable broker over a driver: batches, limits, delays, and errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

from cloudq import signals
from cloudq.broker import publish_signals
from cloudq.broker.claim_check import NEVER_LARGE, ClaimCheck
from cloudq.broker.company import Companies
from cloudq.broker.delayed import DelayedStore
from cloudq.broker.deliveries import Refused
from cloudq.broker.one_time import OneTimeSchedules
from cloudq.broker.retry import PublishPolicy
from cloudq.broker.sending import (
    WORTH_A_HANDLE,
    Answer,
    Attempts,
    Lot,
    Sorter,
    Tried,
    Way,
    fitted,
    tell,
)
from cloudq.clock import Clock, real_time
from cloudq.driver import (
    BrokerDriver,
    Code,
    DeadLetterCopies,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    PlatformDeadLetters,
    Scheduled,
    Scheduling,
)
from cloudq.driver.advice import explain
from cloudq.driver.forks import Driven
from cloudq.errors import BrokerError, CloudQError, ConfigurationError, ServiceError
from cloudq.messages.codec import Codec
from cloudq.messages.message import TaskMessage

if TYPE_CHECKING:
    from cloudq.driver import QueueAdmin

_NO_QUEUE = (
    'there is no such queue: "cloudq queues create NAME" makes one, '
    "or check the name, the region and the account"
)

_RETRIES = 3  # of a call that asks for some, in an app whose calls have none
_NONE: Mapping[str, PublishPolicy] = {}
_NO_HANDLES: Mapping[str, str] = MappingProxyType({})


class Broker(Driven[BrokerDriver]):
    """Sends and receives task messages on one queue service. Safe to use from many threads.

    `delayed_store` keeps delayed messages for queues that cannot delay. Bundles have at most
    `bundle_bytes`. `reopen` gives another driver after a fork. Every method raises `BrokerError`.
    """

    def __init__(
        self,
        driver: BrokerDriver,
        *,
        url: str,
        publish_retries: int = 3,
        delayed_store: DelayedStore | None = None,
        codec: Codec | None = None,
        clock: Clock = real_time,
        sleep: Callable[[float], None] = time.sleep,
        bundle_bytes: int = 65_536,
        claims: ClaimCheck | None = None,
        reopen: Callable[[], BrokerDriver] | None = None,
    ) -> None:
        super().__init__(driver, reopen)
        self.codec = codec or Codec()
        self.url = url
        self._publish_retries = publish_retries
        self._usual = PublishPolicy(most=publish_retries)
        self._delayed_store = delayed_store
        self.clock = clock
        self._sleep = sleep
        self._bundle_bytes = bundle_bytes
        self._claims = claims or ClaimCheck(self.codec)
        self._companies = Companies(lambda: self.driver)

    def limits(self, queue: str) -> Limits:
        return self.driver.limits(queue)

    @property
    def admin(self) -> QueueAdmin:
        """The driver's operator commands. Raises `ConfigurationError` if it has none."""
        from cloudq.driver import QueueAdmin

        if not isinstance(self.driver, QueueAdmin):
            raise ConfigurationError(f"{self.url} cannot be administered from here")
        return self.driver

    @contextmanager
    def asking(self, verb: str, queue: str) -> Generator[QueueAdmin]:
        """Give operator commands to a block; its errors become `BrokerError`s that say `verb`."""
        with self.trying(verb, queue):
            yield self.admin

    # ---- publishing

    def send(
        self,
        messages: Sequence[TaskMessage],
        policies: Mapping[str, PublishPolicy] = _NONE,
        one_time: OneTimeSchedules | None = None,
    ) -> Mapping[str, str]:
        """Publish to each message's own queue, in as few requests as the service allows.

        A message with `not_before` in the future is delayed by the service, in several hops if
        it is due later than the service (or `LONGEST_HOP`) allows. Where the service cannot delay,
        it is kept in the result store. `one_time` takes calls for distant times.

        `policies` has retry policies of calls with their own, by message id. Returns handles for
        `unschedule` or `one_time`, by message id, of messages that wait a minute or more. Raises
        `MessageTooLarge`, `PayloadError` and `ConfigurationError` before anything is sent, and
        `PublishError` for messages that the service refused.
        """
        if signals.before_task_publish.connections:
            messages = publish_signals.announced(messages)
        first: Tried | None = None
        if one_time is None and len(messages) == 1 and messages[0].not_before is None:
            first = self._tried_alone(messages[0])
            if first is None:
                if signals.after_task_publish.connections:
                    publish_signals.published(messages)
                return _NO_HANDLES
        lots = [first.lot] if first else self._sorter.lots(messages, one_time, self.clock())
        answers: dict[int, Answer] = {}
        for lot in lots:
            own = {place: self._policy(policies.get(messages[place].id)) for place in lot.messages}
            limits, began = self.driver.limits(lot.queue), first and first.began
            attempts = Attempts(lot, limits, own, sleep=self._sleep, began=began)
            for batch in attempts:
                outgoing = lot.batch(batch)
                tried, first = first, None
                try:
                    if tried is not None:
                        answered = tried.answered
                    elif lot.way is Way.ONE_TIME and one_time is not None:
                        answered = one_time.send(lot.queue, outgoing, lot.due)
                    else:
                        answered = self.try_send(lot.queue, outgoing, lot.way)
                except ServiceError as error:
                    attempts.lost(error)
                else:
                    attempts.answered(batch, answered)
            answers |= lot.of_all(attempts.answers) if lot.members else attempts.answers
        tell(messages, answers)
        return {
            messages[place].id: answer
            for lot in lots
            for place, outgoing in lot.messages.items()
            if outgoing.delay >= WORTH_A_HANDLE
            and isinstance(answer := answers[place], str)
            and answer
        }

    def _tried_alone(self, message: TaskMessage) -> Tried | None:
        """Send one message that is not delayed, once; None if it was sent. Raises as `send`."""
        driver, queue = self.driver, message.queue
        limits = driver.limits(queue)
        body, stores = self.codec.encode(message), self._delayed_store is not None
        if len(body) > NEVER_LARGE:
            body = self._claims.fit(message, body, limits.body)
        outgoing = fitted(message, body, limits, 0.0, url=self.url, stores_delayed=stores)
        began = time.monotonic()
        try:
            failures = (self._companies if limits.billed else driver).send(queue, (outgoing,))
            if not failures:
                return None
            outcome = failures[0]
        except Exception as error:
            try:
                self.ended("send to", queue, error)
                raise
            except ServiceError as refused:
                outcome = refused
        lot = Lot(queue=queue, way=Way.PLAIN, messages={0: outgoing})
        return Tried(lot=lot, began=began, outcome=outcome)

    def try_send(self, queue: str, messages: Sequence[Outgoing], way: Way) -> Sequence[Answer]:
        """Send one batch in one request, by the way that `way_of` chose for its messages.

        Returns for each message its handle ("" if it has none), or the reason of its refusal.
        """
        with self.trying("send to", queue):
            if way is Way.STORED and self._delayed_store is not None:
                return self._delayed_store.keep(queue, messages)
            if way is Way.SCHEDULED:
                return self._scheduling().schedule(queue, messages)
            sender = self._companies if self.driver.limits(queue).billed else self.driver
            refused = {failure.index: failure for failure in sender.send(queue, messages)}
            return [refused.get(place, "") for place in range(len(messages))]

    def way_of(self, queue: str, message: Outgoing) -> Way:
        """Choose the way of a message to the queue, by its delay and what the service can do."""
        if message.delay:
            if self.stores_delayed(queue):
                return Way.STORED
            if message.delay >= WORTH_A_HANDLE and isinstance(self.driver, Scheduling):
                return Way.SCHEDULED
        return Way.PLAIN

    @cached_property
    def _sorter(self) -> Sorter:
        return Sorter(
            claims=self._claims,
            limits=self.limits,
            way_of=self.way_of,
            url=self.url,
            stores_delayed=self._delayed_store is not None,
            bundle_bytes=self._bundle_bytes,
        )

    def _policy(self, own: PublishPolicy | None) -> PublishPolicy:
        if own is None:
            return self._usual
        return own if own.most is not None else replace(own, most=self._publish_retries or _RETRIES)

    # ---- delayed messages

    def stores_delayed(self, queue: str) -> bool:
        """Tell whether delayed messages of the queue are kept in the result store."""
        return self._delayed_store is not None and not self.limits(queue).max_delay

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at up to `count` delayed messages, `after` a handle.

        Raises `ConfigurationError` where the service does not show them.
        """
        if self._delayed_store is not None and self.stores_delayed(queue):
            return self._delayed_store.delayed(queue, count=count, after=after)
        with self.trying("look at delayed messages of", queue):
            return self._scheduling().scheduled(queue, count=count, after=after)

    def unschedule(self, queue: str, handles: Sequence[str]) -> list[Failure]:
        """Take delayed messages back; one that has come due meanwhile is a `NOT_FOUND`.

        Raises `ConfigurationError` where the service gives none back.
        """
        if self._delayed_store is not None and self.stores_delayed(queue):
            return self._delayed_store.take_back(queue, handles)
        scheduling, size = self._scheduling(), self.limits(queue).batch
        failed: list[Failure] = []
        for start in range(0, len(handles), size):
            with self.trying("take back from", queue):
                refused = scheduling.unschedule(queue, handles[start : start + size])
            failed += [replace(failure, index=start + failure.index) for failure in refused]
        return failed

    def send_delayed(self, queue: str, *, every: float = 0.0) -> float | None:
        """Send the stored messages that are due; return the time of the next one, None if unknown.

        With `every` the store is read only if the last read is that many seconds ago, or if a
        message that this process knows of is due. Raises `BackendError` as well.
        """
        store = self._delayed_store if self.stores_delayed(queue) else None
        if store is None or (every and not store.worth_a_look(queue, every=every)):
            return None

        def send(batch: Sequence[Outgoing]) -> Sequence[Failure]:
            with self.trying("send to", queue):
                return self.driver.send(queue, batch)

        return store.send_due(queue, send, batch=min(self.limits(queue).batch, 100))

    def wait_for_delayed(self, timeout: float) -> None:
        """Wait until this process stores a delayed message, or for `timeout` seconds."""
        if self._delayed_store is None:
            time.sleep(timeout)
        else:
            self._delayed_store.wait(timeout)

    def wake_delayed(self) -> None:
        """End a `wait_for_delayed` of another thread."""
        if self._delayed_store is not None:
            self._delayed_store.wake()

    def _scheduling(self) -> Scheduling:
        if not isinstance(self.driver, Scheduling):
            raise ConfigurationError(f"{self.url} does not show its delayed messages")
        return self.driver

    # ---- consuming

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease up to `count` messages; with none there, wait up to `wait` s for the first."""
        limits = self.driver.limits(queue)
        with self.trying("receive from", queue):
            return self.driver.receive(
                queue,
                count=min(count, limits.batch),
                wait=min(max(wait, limits.min_wait), limits.max_wait),
                lease=self.lease(queue, lease),
            )

    def lease(self, queue: str, wanted: float) -> float:
        """Return the length that a lease of `wanted` seconds gets on this queue."""
        limits = self.driver.limits(queue)
        return min(max(wanted, limits.min_lease), limits.max_lease)

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        """Delete settled messages; return those that could not be deleted, with the reasons."""
        return self._settle("ack on", deliveries, self.driver.ack)

    def release(self, deliveries: Sequence[Delivery], *, after: float = 0.0) -> list[Refused]:
        """End the leases: each message can be received again `after` seconds from now."""

        def call(batch: Sequence[Delivery]) -> Sequence[Failure]:
            longest = self._longest_release(batch[0].queue)
            return self.driver.release(batch, after=min(after, longest))

        return self._settle("release on", deliveries, call)

    def _longest_release(self, queue: str) -> float:
        # Where the length of a lease can be chosen, drivers release by setting one. Where it is
        # fixed, they delay the message in another way, without this limit.
        limits = self.driver.limits(queue)
        return inf if limits.min_lease == limits.max_lease else limits.max_lease

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> list[Refused]:
        """Make the leases end `lease` seconds from now."""

        def call(batch: Sequence[Delivery]) -> Sequence[Failure]:
            return self.driver.extend(batch, lease=self.lease(batch[0].queue, lease))

        return self._settle("extend on", deliveries, call)

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[Refused]:
        """Move messages to their queue's dead letters, with the reason."""
        call = partial(self.driver.dead_letter, reason=reason)
        return self._settle("dead-letter on", deliveries, call)

    def bury(self, deliveries: Sequence[Delivery], *, reason: str) -> list[Refused]:
        """Move messages that a function's platform leased to their queue's dead letters."""
        driver = self.driver
        if isinstance(driver, PlatformDeadLetters):
            return self._settle("dead-letter on", deliveries, partial(driver.bury, reason=reason))
        why = f"{self.url} cannot dead-letter what it has not received itself ({reason})"
        return [Refused(delivery=d, code=Code.UNSUPPORTED, reason=why) for d in deliveries]

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> list[Refused]:
        """Put new messages among the dead letters of their queue, with the reason."""
        driver = self.driver
        if isinstance(driver, DeadLetterCopies):
            call = partial(driver.copy_to_dead, reason=reason)
            return self._settle("dead-letter on", deliveries, call)
        why = f"{self.url} takes no copies for its dead letters ({reason})"
        return [Refused(delivery=d, code=Code.UNSUPPORTED, reason=why) for d in deliveries]

    def _settle(
        self,
        verb: str,
        deliveries: Sequence[Delivery],
        call: Callable[[Sequence[Delivery]], Sequence[Failure]],
    ) -> list[Refused]:
        queues: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            queues.setdefault(delivery.queue, []).append(delivery)
        refused: list[Refused] = []
        for queue, group in queues.items():
            size = self.driver.limits(queue).batch
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                try:
                    with self.trying(verb, queue):
                        failures = call(batch)
                except BrokerError as error:
                    code, reason = Code(error.code), str(error)
                    refused += [Refused(delivery=d, code=code, reason=reason) for d in batch]
                    continue
                refused += [
                    Refused(delivery=batch[f.index], code=f.code, reason=f.reason) for f in failures
                ]
        return refused

    def ended(self, verb: str, name: str, error: BaseException | None) -> None:
        """Raise `BrokerError` in place of what the driver raised."""
        if isinstance(error, Exception) and not isinstance(error, CloudQError):
            code = self.driver.error_code(error)
            tried = f"{verb} {name!r} on {self.url}"
            text = explain(tried, code, error, missing=_NO_QUEUE, driver=self.driver)
            raise BrokerError(text, code=code) from error
