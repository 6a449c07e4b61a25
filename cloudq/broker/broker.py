"""The portable broker over a driver: batches, limits, delays, and errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from math import inf

from cloudq.broker.batching import batches, fitted
from cloudq.broker.delayed import DelayedStore
from cloudq.broker.one_time import OneTimeSchedules
from cloudq.broker.retry import PublishPolicy
from cloudq.clock import Clock, real_time
from cloudq.driver import (
    BrokerDriver,
    Code,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    PlatformDeadLetters,
    QueueAdmin,
    Scheduled,
    Scheduling,
)
from cloudq.driver.advice import explain
from cloudq.errors import (
    BrokerError,
    CloudQError,
    ConfigurationError,
    PublishError,
    Rejected,
    ServiceError,
)
from cloudq.messages.codec import Codec
from cloudq.messages.message import TaskMessage

_NO_QUEUE = (
    'there is no such queue: "cloudq queues create NAME" makes one, '
    "or check the name, the region and the account"
)

# A delay that is long enough to remember how the message can be taken back.
_WORTH_A_HANDLE = 60.0

# Of a call that wants to be sent again, in an app whose calls are not.
_RETRIES = 3
_AS_EVER: Mapping[str, PublishPolicy] = {}

_PASSING = frozenset({Code.THROTTLED, Code.UNREACHABLE})
# An error within so many seconds is a service's first answer; later, its SDK has tried again.
_AT_ONCE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One delivery that a batched call did not settle, and why."""

    delivery: Delivery
    code: Code
    reason: str


_Send = Callable[[Sequence[Outgoing]], Sequence[str | Failure]]
"""Sends a batch; each message's handle ("" where it has none), or why it was refused."""


def _as_they_are(messages: Sequence[TaskMessage]) -> Sequence[TaskMessage]:
    return messages


def _unheard(messages: Sequence[TaskMessage]) -> None:
    """Nobody wants to know."""


class Broker:
    """Sends and receives task messages on one queue service. Safe to use from many threads.

    `delayed_store` keeps delayed messages for queues that cannot delay. `announce` is given
    messages before they are sent and gives what to send, `published` those that were.
    Every method raises `BrokerError` when the service refuses the call as a whole.
    """

    def __init__(
        self,
        driver: BrokerDriver,
        *,
        url: str,
        publish_retries: int = 3,
        delayed_store: DelayedStore | None = None,
        codec: Codec | None = None,
        announce: Callable[[Sequence[TaskMessage]], Sequence[TaskMessage]] = _as_they_are,
        published: Callable[[Sequence[TaskMessage]], None] = _unheard,
        clock: Clock = real_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.codec = codec or Codec()
        self.driver = driver
        self.url = url
        self._announce = announce
        self._published = published
        self._publish_retries = publish_retries
        self._delayed_store = delayed_store
        self.clock = clock
        self._sleep = sleep

    def limits(self, queue: str) -> Limits:
        return self.driver.limits(queue)

    @property
    def admin(self) -> QueueAdmin:
        """What an operator can do. Raises `ConfigurationError` where the service has nothing."""
        if not isinstance(self.driver, QueueAdmin):
            raise ConfigurationError(f"{self.url} cannot be administered from here")
        return self.driver

    @contextmanager
    def asking(self, verb: str, queue: str) -> Generator[QueueAdmin]:
        """The operator's side, for a block whose errors become `BrokerError`s that say `verb`."""
        with self._wrapped(verb, queue):
            yield self.admin

    # ---- publishing

    def send(
        self,
        messages: Sequence[TaskMessage],
        publishing: Mapping[str, PublishPolicy] = _AS_EVER,
        one_time: OneTimeSchedules | None = None,
    ) -> Mapping[str, str]:
        """Publish to each message's own queue, in as few requests as the service allows.

        A message with `not_before` in the future is delayed by the service; when that is further
        than the service can delay, or `LONGEST_HOP`, it is sent on in hops; where the service
        cannot delay at all, it is parked; with `one_time`, what that takes waits there. Returns the
        handles for `unschedule` or `one_time`, by message id, of those that wait a minute or more.
        `publishing` has, by message id, how often calls that say
        so are sent again when the service is busy. Raises `MessageTooLarge` and
        `ConfigurationError` before anything is sent, and `PublishError` naming what was refused.
        """
        messages = self._announce(messages)
        now = self.clock()
        queues: dict[str, dict[int, Outgoing]] = {}
        for place, message in enumerate(messages):
            queues.setdefault(message.queue, {})[place] = fitted(
                message,
                self.codec.encode(message),
                self.driver.limits(message.queue),
                now,
                url=self.url,
                stores_delayed=self._delayed_store is not None,
            )
        answers: dict[int, str | Failure] = {}
        for queue, outgoing in queues.items():
            distant: dict[int, float] = {}
            if one_time is not None:
                limits = self.driver.limits(queue)
                for place, each in outgoing.items():
                    if one_time.takes(messages[place], each.body, limits, now):
                        distant[place] = messages[place].not_before or 0.0
            for call, places in self._ways(queue, outgoing, one_time, distant):
                own = {p: publishing[id] for p in places if (id := messages[p].id) in publishing}
                some = {p: outgoing[p] for p in places}
                answers |= self._send_queue(queue, some, call, own)
        rejected = [
            Rejected(index=place, id=messages[place].id, code=failure.code, reason=failure.reason)
            for place, failure in sorted(answers.items())
            if isinstance(failure, Failure)
        ]
        if len(rejected) < len(messages):
            refused = {each.index for each in rejected}
            self._published([m for place, m in enumerate(messages) if place not in refused])
        if rejected:
            first = rejected[0]
            raise PublishError(
                f"{len(rejected)} of {len(messages)} messages were not sent: "
                f"{first.reason} ({first.code})",
                code=first.code,
                rejected=rejected,
            )
        return {
            messages[place].id: answer
            for outgoing in queues.values()
            for place, sent in outgoing.items()
            if sent.delay >= _WORTH_A_HANDLE
            and isinstance(answer := answers[place], str)
            and answer
        }

    def _ways(
        self,
        queue: str,
        outgoing: Mapping[int, Outgoing],
        one_time: OneTimeSchedules | None,
        distant: Mapping[int, float],
    ) -> list[tuple[_Send, list[int]]]:
        """The messages of a queue by the way they are sent; the `distant` ones by `one_time`."""
        driver, delayed_store = self.driver, self._delayed_store
        if one_time is not None and distant:
            due = {outgoing[place].id: time for place, time in distant.items()}
            rest = {place: each for place, each in outgoing.items() if place not in distant}
            by_far: _Send = lambda batch: one_time.send(queue, batch, due)  # noqa: E731
            return [(by_far, list(distant)), *self._ways(queue, rest, None, {})]
        if not any(message.delay for message in outgoing.values()):
            return [(self._plainly(queue), list(outgoing))]
        ways: list[tuple[_Send, list[int]]] = []
        late: Collection[int] = ()
        if delayed_store is not None and not driver.limits(queue).max_delay:
            late = {place for place, message in outgoing.items() if message.delay}
            ways.append((lambda batch: delayed_store.keep(queue, batch), sorted(late)))
        elif isinstance(driver, Scheduling):
            late = {p for p, message in outgoing.items() if message.delay >= _WORTH_A_HANDLE}
            ways.append((lambda batch: driver.schedule(queue, batch), sorted(late)))
        ways.append((self._plainly(queue), [place for place in outgoing if place not in late]))
        return [(call, places) for call, places in ways if places]

    def _plainly(self, queue: str) -> _Send:
        def send(batch: Sequence[Outgoing]) -> Sequence[str | Failure]:
            refused = {failure.index: failure for failure in self.driver.send(queue, batch)}
            return [refused.get(place, "") for place in range(len(batch))]

        return send

    def _send_queue(
        self,
        queue: str,
        outgoing: Mapping[int, Outgoing],
        call: _Send,
        own: Mapping[int, PublishPolicy],
    ) -> dict[int, str | Failure]:
        """Send all, again where the service was busy; the answer to each, by its place."""
        answers: dict[int, str | Failure] = {}
        waiting = list(outgoing)
        usual = PublishPolicy(most=self._publish_retries)
        for attempt in count():
            if attempt:
                self._sleep(max(own.get(p, usual).pause(attempt - 1) for p in waiting))
            for batch in batches(waiting, outgoing, self.driver.limits(queue)):
                start = time.monotonic()
                try:
                    with self._wrapped("send to", queue):
                        answered = call([outgoing[place] for place in batch])
                except ServiceError as error:
                    # What is left would fare no better.
                    left = waiting[waiting.index(batch[0]) :]
                    lost = Failure(index=0, code=Code(error.code), reason=str(error))
                    answers |= dict.fromkeys(left, lost)
                    if time.monotonic() - start > _AT_ONCE:
                        return answers
                    break
                answers |= zip(batch, answered, strict=True)
            waiting = [
                place
                for place, answer in answers.items()
                if isinstance(answer, Failure)
                and answer.code in _PASSING
                and attempt < self._most(own.get(place, usual))
            ]
            if not waiting:
                break
        return answers

    def _most(self, publishing: PublishPolicy) -> int:
        if publishing.most is not None:
            return publishing.most
        return self._publish_retries or _RETRIES

    # ---- delayed messages

    def stores_delayed(self, queue: str) -> bool:
        """Whether delayed messages of the queue are kept in the result store."""
        return self._delayed_store is not None and not self.limits(queue).max_delay

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at up to `count` delayed messages, `after` a handle.

        Raises `ConfigurationError` where the service does not show them.
        """
        if self._delayed_store is not None and self.stores_delayed(queue):
            return self._delayed_store.delayed(queue, count=count, after=after)
        with self._wrapped("look at delayed messages of", queue):
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
            with self._wrapped("take back from", queue):
                refused = scheduling.unschedule(queue, handles[start : start + size])
            failed += [replace(failure, index=start + failure.index) for failure in refused]
        return failed

    def send_delayed(self, queue: str, *, every: float = 0.0) -> float | None:
        """Send on the parked messages that are due; when the next one is, None if none is known.

        With `every` the store is asked only when a look is that many seconds past, or when one
        that this process knows of is due. Raises `BackendError` as well.
        """
        if self._delayed_store is None or not self.stores_delayed(queue):
            return None
        if every and not self._delayed_store.worth_a_look(queue, every=every):
            return None

        def send(batch: Sequence[Outgoing]) -> Sequence[Failure]:
            with self._wrapped("send to", queue):
                return self.driver.send(queue, batch)

        return self._delayed_store.send_due(queue, send, batch=min(self.limits(queue).batch, 100))

    def wait_for_delayed(self, timeout: float) -> None:
        """Wait until this process parks a message, or for `timeout` seconds."""
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
        with self._wrapped("receive from", queue):
            return self.driver.receive(
                queue,
                count=min(count, limits.batch),
                wait=min(max(wait, limits.min_wait), limits.max_wait),
                lease=self.lease(queue, lease),
            )

    def lease(self, queue: str, wanted: float) -> float:
        """How long a lease of `wanted` seconds really is on this queue."""
        limits = self.driver.limits(queue)
        return min(max(wanted, limits.min_lease), limits.max_lease)

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        """Delete what was settled; what could not be comes back with the reason."""
        return self._settle("ack on", deliveries, self.driver.ack)

    def release(self, deliveries: Sequence[Delivery], *, after: float = 0.0) -> list[Refused]:
        """Give back: each can be received again `after` seconds from now."""
        return self._settle(
            "release on",
            deliveries,
            lambda batch: self.driver.release(
                batch, after=min(after, self._longest_release(batch[0].queue))
            ),
        )

    def _longest_release(self, queue: str) -> float:
        # Where a lease can be chosen, its driver releases by one. A queue with one length of lease
        # has another way to delay what comes back.
        limits = self.driver.limits(queue)
        return inf if limits.min_lease == limits.max_lease else limits.max_lease

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> list[Refused]:
        """Keep the leases for `lease` seconds from now."""
        return self._settle(
            "extend on",
            deliveries,
            lambda batch: self.driver.extend(batch, lease=self.lease(batch[0].queue, lease)),
        )

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[Refused]:
        """Move to the queue's dead letters, with the reason."""
        return self._settle(
            "dead-letter on",
            deliveries,
            lambda batch: self.driver.dead_letter(batch, reason=reason),
        )

    def bury(self, deliveries: Sequence[Delivery], *, reason: str) -> list[Refused]:
        """Move to the queue's dead letters what a function's platform has leased, not we."""
        driver = self.driver
        if isinstance(driver, PlatformDeadLetters):
            return self._settle(
                "dead-letter on", deliveries, lambda batch: driver.bury(batch, reason=reason)
            )
        why = f"{self.url} cannot dead-letter what it has not received itself ({reason})"
        return [Refused(delivery=d, code=Code.UNSUPPORTED, reason=why) for d in deliveries]

    def close(self) -> None:
        self.driver.close()

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
                    with self._wrapped(verb, queue):
                        failures = call(batch)
                except BrokerError as error:
                    code, reason = Code(error.code), str(error)
                    refused += [Refused(delivery=d, code=code, reason=reason) for d in batch]
                    continue
                refused += [
                    Refused(delivery=batch[f.index], code=f.code, reason=f.reason) for f in failures
                ]
        return refused

    @contextmanager
    def _wrapped(self, verb: str, queue: str) -> Generator[None]:
        try:
            yield
        except CloudQError:
            raise
        except Exception as error:
            code = self.driver.error_code(error)
            raise BrokerError(
                explain(f"{verb} {queue!r} on {self.url}", code, error, missing=_NO_QUEUE),
                code=code,
            ) from error
