"""The ways, batches and retries of one publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from math import inf

from cloudq.broker.retry import PublishPolicy
from cloudq.driver import ORDERED_SUFFIX, Code, Failure, Limits, Outgoing
from cloudq.errors import ConfigurationError, MessageTooLarge, ServiceError
from cloudq.messages.message import TaskMessage

Answer = str | Failure
"""A sent message's handle ("" if it has none), or the reason of its refusal."""

WORTH_A_HANDLE = 60.0
"""The shortest delay, in seconds, of messages whose handle is kept to take them back."""

BUSY = frozenset({Code.THROTTLED, Code.UNREACHABLE})
# An error after more than this many seconds comes from an SDK that has retried already.
_AT_ONCE = 0.5

# The longest hop, in seconds: a worker sees the message before a revocation of it expires.
LONGEST_HOP = 28 * 86_400.0


class Way(Enum):
    """The ways in which a message reaches its queue."""

    PLAIN = "plain"
    SCHEDULED = "scheduled"  # delayed by the service, with a handle to take it back
    STORED = "stored"  # kept in the result store until it is due
    ONE_TIME = "one_time"  # sent by an entry of the cloud's scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """Messages for one queue that are sent in the same way, by their places in the publish."""

    queue: str
    way: Way
    messages: Mapping[int, Outgoing]
    due: Mapping[str, float] = field(default_factory=dict[str, float])
    """When the `ONE_TIME` ones are due, by their ids, in epoch seconds."""

    def batch(self, places: Sequence[int]) -> list[Outgoing]:
        return [self.messages[place] for place in places]


class Attempts:
    """Iterates over the batches of a lot, then over those to retry, with pauses in between.

    Call `answered` or `lost` for each batch. At the end `answers` has each message's outcome.
    """

    def __init__(
        self,
        lot: Lot,
        limits: Limits,
        policies: Mapping[int, PublishPolicy],
        *,
        again: Set[Code] = BUSY,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.answers: dict[int, Answer] = {}
        self._lot = lot
        self._limits = limits
        self._policies = policies
        self._again = again
        self._sleep = sleep
        self._lost: Failure | None = None
        self._passed = False  # a batch was answered

    def __iter__(self) -> Iterator[Sequence[int]]:
        """Yield the places of each batch; pause before each round of retries."""
        waiting: list[int] = list(self._lot.messages)
        for attempt in count():
            if attempt:
                self._sleep(max(self._policies[place].pause(attempt - 1) for place in waiting))
            in_a_row = 0
            for batch in batches(waiting, self._lot.messages, self._limits):
                started = time.monotonic()
                yield batch
                if self._lost is None:
                    in_a_row = 0
                    self._passed = True
                    continue
                lost = self._lost
                self._lost = None
                slow = time.monotonic() - started > _AT_ONCE
                in_a_row += 1
                if self._goes_on(in_a_row, slow=slow):
                    self.answers |= dict.fromkeys(batch, lost)
                    continue
                # The rest would fail in the same way.
                self.answers |= dict.fromkeys(waiting[waiting.index(batch[0]) :], lost)
                if slow and not self._passed:
                    return
                break
            waiting = [place for place in self.answers if self._once_more(place, attempt)]
            if not waiting:
                return

    def answered(self, batch: Sequence[int], answers: Sequence[Answer]) -> None:
        """Record the answers to the messages of a batch."""
        self.answers |= zip(batch, answers, strict=True)

    def lost(self, error: ServiceError) -> None:
        """Record that the request for the last batch failed as a whole."""
        self._lost = Failure(index=0, code=Code(error.code), reason=str(error))

    def _goes_on(self, in_a_row: int, *, slow: bool) -> bool:
        """Tell whether the next batch is worth a try: two lost ones in a row are an outage."""
        if self._limits.ordered:  # the lost ones come first
            return False
        return in_a_row == 1 and (self._passed or not slow)

    def _once_more(self, place: int, attempt: int) -> bool:
        answer = self.answers[place]
        if not isinstance(answer, Failure) or answer.code not in self._again:
            return False
        most = self._policies[place].most
        return most is None or attempt < most


def fitted(
    message: TaskMessage, body: bytes, limits: Limits, now: float, *, url: str, stores_delayed: bool
) -> Outgoing:
    """Make the message to send at `now`; with `stores_delayed` a result store can delay it.

    Raises `MessageTooLarge`, and `ConfigurationError` for what the queue cannot do.
    """
    if len(body) > limits.body:
        raise MessageTooLarge(
            f"the message for {message.task} is {len(body):,} bytes and {url} takes "
            f"{limits.body:,}: store the data elsewhere and pass its key"
        )
    delay = max(0.0, message.not_before - now) if message.not_before else 0.0
    if delay and not limits.max_delay and not stores_delayed:
        raise ConfigurationError(
            f"queue {message.queue!r} on {url} cannot delay single messages, and the app "
            "has no backend that could keep them: set one, or send without countdown and eta"
        )
    if message.group_key is not None and not limits.ordered:
        raise ConfigurationError(
            f"queue {message.queue!r} on {url} keeps no order, so group_key would do "
            f"nothing: use an ordered queue (one whose name ends in {ORDERED_SUFFIX})"
        )
    if message.dedup_key is not None and not limits.dedup_window:
        raise ConfigurationError(
            f"queue {message.queue!r} on {url} does not deduplicate: "
            "use idempotency_key, which works on every broker"
        )
    return Outgoing(
        id=f"{message.id}.{message.retries}" if message.retries else message.id,
        body=body,
        delay=min(delay, limits.max_delay or inf, LONGEST_HOP),
        group=message.group_key,
        dedup=message.dedup_key,
    )


def batches(
    places: Sequence[int], outgoing: Mapping[int, Outgoing], limits: Limits
) -> Iterator[list[int]]:
    """Cut places into batches within the service's limits of count and size."""
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
