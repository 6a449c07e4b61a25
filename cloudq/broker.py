"""The portable broker over a driver: batches, limits, delays, and errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cloudq.codec import encode
from cloudq.driver import (
    BrokerDriver,
    Code,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    QueueAdmin,
)
from cloudq.errors import (
    BrokerError,
    CloudQError,
    ConfigurationError,
    MessageTooLarge,
    PublishError,
    Rejected,
)
from cloudq.message import TaskMessage

# On ordered queues messages are received along with one of their group that is to be retried, and
# given back: many deliveries are no deaths there.
ORDERED_PATIENCE = 10

_PASSING = frozenset({Code.THROTTLED, Code.UNREACHABLE})

_ADVICE = {
    Code.NOT_FOUND: 'there is no such queue: "cloudq queues create NAME" makes one, '
    "or check the name, the region and the account",
    Code.DENIED: "the credentials in use may not do this: ask for the permission named below",
    Code.CREDENTIALS: "no usable credentials: set them up for this service, then try again",
    Code.THROTTLED: "the service asks to slow down: try again later",
    Code.UNREACHABLE: "no answer: check the URL, the region and the network",
    Code.INVALID: "the service calls the request invalid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One delivery that a batched call did not settle, and why."""

    delivery: Delivery
    code: Code
    reason: str


class Broker:
    """Sends and receives task messages on one queue service. Safe to use from many threads.

    Every method raises `BrokerError` when the service refuses the call as a whole.
    """

    def __init__(self, driver: BrokerDriver, *, url: str, publish_retries: int = 3) -> None:
        self.driver = driver
        self.url = url
        self._publish_retries = publish_retries

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

    def send(self, messages: Sequence[TaskMessage]) -> None:
        """Publish to each message's own queue, in as few requests as the service allows.

        A message with `not_before` in the future is delayed by the service; when that is further
        than the service can delay, it is sent on in hops. Raises `MessageTooLarge` and
        `ConfigurationError` before anything is sent, and `PublishError` naming what was refused.
        """
        now = time.time()
        queues: dict[str, dict[int, Outgoing]] = {}
        for place, message in enumerate(messages):
            queues.setdefault(message.queue, {})[place] = self._outgoing(message, now)
        failed: dict[int, Failure] = {}
        for queue, outgoing in queues.items():
            failed |= self._send_queue(queue, outgoing)
        rejected = [
            Rejected(index=place, id=messages[place].id, code=failure.code, reason=failure.reason)
            for place, failure in sorted(failed.items())
        ]
        if rejected:
            first = rejected[0]
            raise PublishError(
                f"{len(rejected)} of {len(messages)} messages were not sent: "
                f"{first.reason} ({first.code})",
                code=first.code,
                rejected=rejected,
            )

    def _outgoing(self, message: TaskMessage, now: float) -> Outgoing:
        limits = self.driver.limits(message.queue)
        body = encode(message)
        if len(body) > limits.body:
            raise MessageTooLarge(
                f"the message for {message.task} is {len(body):,} bytes and {self.url} takes "
                f"{limits.body:,}: store the data elsewhere and pass its key"
            )
        delay = max(0.0, message.not_before - now) if message.not_before else 0.0
        if delay and not limits.max_delay:
            raise ConfigurationError(
                f"queue {message.queue!r} on {self.url} cannot delay single messages: "
                "send it to a queue that can, or without countdown and eta"
            )
        if message.group_key is not None and not limits.ordered:
            raise ConfigurationError(
                f"queue {message.queue!r} on {self.url} keeps no order, so group_key would do "
                "nothing: use an ordered queue (on SQS one whose name ends in .fifo)"
            )
        if message.dedup_key is not None and not limits.dedup_window:
            raise ConfigurationError(
                f"queue {message.queue!r} on {self.url} does not deduplicate: "
                "use idempotency_key, which works on every broker"
            )
        return Outgoing(
            id=f"{message.id}.{message.retries}" if message.retries else message.id,
            body=body,
            delay=min(delay, limits.max_delay),
            group=message.group_key,
            dedup=message.dedup_key,
        )

    def _send_queue(self, queue: str, outgoing: Mapping[int, Outgoing]) -> dict[int, Failure]:
        """Send all, again where the service was busy; what was not taken, by its place."""
        failed: dict[int, Failure] = {}
        waiting = list(outgoing)
        for attempt in range(self._publish_retries + 1):
            if attempt:
                time.sleep(0.05 * 2**attempt)
            failed = {place: failure for place, failure in failed.items() if place not in waiting}
            for batch in _batches(waiting, outgoing, self.driver.limits(queue)):
                try:
                    with self._wrapped("send to", queue):
                        failures = self.driver.send(queue, [outgoing[place] for place in batch])
                except BrokerError as error:
                    # The SDK has tried again already; what is left would fare no better.
                    left = waiting[waiting.index(batch[0]) :]
                    lost = Failure(index=0, code=Code(error.code), reason=str(error))
                    return failed | dict.fromkeys(left, lost)
                failed |= {batch[failure.index]: failure for failure in failures}
            waiting = [place for place, failure in failed.items() if failure.code in _PASSING]
            if not waiting:
                break
        return failed

    # ---- consuming

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease up to `count` messages; with none there, wait up to `wait` s for the first."""
        limits = self.driver.limits(queue)
        with self._wrapped("receive from", queue):
            return self.driver.receive(
                queue,
                count=min(count, limits.batch),
                wait=min(max(wait, limits.min_wait), limits.max_wait),
                lease=min(lease, limits.max_lease),
            )

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        """Delete what was settled; what could not be comes back with the reason."""
        return self._settle("ack on", deliveries, self.driver.ack)

    def release(self, deliveries: Sequence[Delivery], *, after: float = 0.0) -> list[Refused]:
        """Give back: each can be received again `after` seconds from now."""
        return self._settle(
            "release on",
            deliveries,
            lambda batch: self.driver.release(
                batch, after=min(after, self.driver.limits(batch[0].queue).max_lease)
            ),
        )

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> list[Refused]:
        """Keep the leases for `lease` seconds from now."""
        return self._settle(
            "extend on", deliveries, lambda batch: self.driver.extend(batch, lease=lease)
        )

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[Refused]:
        """Move to the queue's dead letters, with the reason."""
        return self._settle(
            "dead-letter on",
            deliveries,
            lambda batch: self.driver.dead_letter(batch, reason=reason),
        )

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
            raise BrokerError(explain(verb, queue, self.url, code, error), code=code) from error


def queue_deliveries(limits: Limits, max_deliveries: int) -> int:
    """How often a queue itself should deliver a message before it dead-letters it.

    More often than the app, which then has recorded the end that a caller waits for.
    """
    return max_deliveries * (ORDERED_PATIENCE if limits.ordered else 1) + 10


def explain(verb: str, name: str, url: str, code: Code, error: Exception) -> str:
    """One line: what was tried on what, what to do about it, and what the service said."""
    advice = _ADVICE.get(code, "")
    return f"cannot {verb} {name!r} on {url}: {advice}{' - ' if advice else ''}{error}"


def _batches(
    places: Sequence[int], outgoing: Mapping[int, Outgoing], limits: Limits
) -> Iterator[list[int]]:
    """Cut into batches that keep to the service's count and size."""
    batch: list[int] = []
    size = 0
    for place in places:
        length = len(outgoing[place].body)
        if batch and (len(batch) == limits.batch or size + length > limits.batch_body):
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += length
    if batch:
        yield batch
