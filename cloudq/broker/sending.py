"""The ways, lots, batches and retries of one publish; calls of one bundle are one message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count
from math import inf

from cloudq import signals
from cloudq.amounts import counted
from cloudq.broker import publish_signals
from cloudq.broker.claim_check import ClaimCheck
from cloudq.broker.one_time import OneTimeSchedules
from cloudq.broker.retry import PublishPolicy
from cloudq.driver import ORDERED_SUFFIX, Code, Failure, Limits, Outgoing
from cloudq.errors import (
    ConfigurationError,
    MessageTooLarge,
    PublishError,
    Rejected,
    ServiceError,
)
from cloudq.messages.ids import place_of
from cloudq.messages.message import TaskMessage, new_id

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
    """Messages for one queue that are sent in the same way, by their places in the publish.

    `due` says when the `ONE_TIME` ones are due, by their ids, in epoch seconds. `members` has the
    places of the calls in a bundle, by that of the first.
    """

    queue: str
    way: Way
    messages: dict[int, Outgoing] = field(default_factory=dict[int, Outgoing])
    due: dict[str, float] = field(default_factory=dict[str, float])
    members: dict[int, Sequence[int]] = field(default_factory=dict[int, "Sequence[int]"])

    def of_all(self, answers: Mapping[int, Answer]) -> dict[int, Answer]:
        """Give each call of a bundle the answer to its message."""
        all_answers = dict(answers)
        for place, members in self.members.items():
            all_answers |= dict.fromkeys(members, answers[place])
        return all_answers

    def batch(self, places: Sequence[int]) -> list[Outgoing]:
        return [self.messages[place] for place in places]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The first try of a lot of one message; `began` is its time by the monotonic clock."""

    lot: Lot
    began: float
    outcome: Answer | ServiceError

    @property
    def answered(self) -> Sequence[Answer]:
        """The answer. Raises the error that the request failed with."""
        if isinstance(self.outcome, ServiceError):
            raise self.outcome
        return [self.outcome]


class Attempts:
    """Iterates over the batches of a lot, then over those to retry, with pauses in between.

    Call `answered` or `lost` for each batch. At the end `answers` has each message's outcome.
    `began` is when the request of the first batch was made, if it was made before.
    """

    def __init__(
        self,
        lot: Lot,
        limits: Limits,
        policies: Mapping[int, PublishPolicy],
        *,
        again: Set[Code] = BUSY,
        sleep: Callable[[float], None] = time.sleep,
        began: float | None = None,
    ) -> None:
        self.answers: dict[int, Answer] = {}
        self._began = began
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
                started = time.monotonic() if self._began is None else self._began
                self._began = None
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


def tell(messages: Sequence[TaskMessage], answers: Mapping[int, Answer]) -> None:
    """Send the signals of published messages; raise `PublishError` if any was refused."""
    rejected = [
        Rejected(index=place, id=messages[place].id, code=failure.code, reason=failure.reason)
        for place, failure in sorted(answers.items())
        if isinstance(failure, Failure)
    ]
    if signals.after_task_publish.connections:
        refused = {each.index for each in rejected}
        sent = [message for place, message in enumerate(messages) if place not in refused]
        publish_signals.published(sent)
    if not rejected:
        return
    first = rejected[0]
    raise PublishError(
        f"{len(rejected)} of {counted(len(messages), 'message')} not sent: {first.reason} "
        f"({first.code})",
        code=first.code,
        rejected=rejected,
    )


def fitted(
    message: TaskMessage, body: bytes, limits: Limits, now: float, *, url: str, stores_delayed: bool
) -> Outgoing:
    """Make the message to send at `now`; with `stores_delayed` a result store can delay it.

    Raises `MessageTooLarge`, and `ConfigurationError` for what the queue cannot do.
    """
    if len(body) > limits.body:
        raise MessageTooLarge(
            f"the message for {message.task} is {len(body):,} bytes and {url} takes "
            f"{limits.body:,}: set payload_store, say to s3://bucket/prefix, and its large "
            "arguments go there by themselves"
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


# ---- lots

_BundleKey = tuple[str, str, str | None, str | None]
"""The bundle, the queue, the ordering key and the compression of calls that go in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorter:
    """Sorts messages for one broker; a bundle has a body of at most `bundle_bytes`."""

    claims: ClaimCheck
    limits: Callable[[str], Limits]
    way_of: Callable[[str, Outgoing], Way]
    url: str
    stores_delayed: bool
    bundle_bytes: int

    def lots(
        self, messages: Sequence[TaskMessage], one_time: OneTimeSchedules | None, now: float
    ) -> list[Lot]:
        """Encode messages, fit them to their queues, and group them by queue and way.

        Raises `EncodeError`, `MessageTooLarge` and `ConfigurationError`.
        """
        lots: dict[tuple[str, Way], Lot] = {}
        bundles: dict[_BundleKey, list[int]] = {}
        for place, message in enumerate(messages):
            key = _bundle_of(message) if len(messages) > 1 else None
            if key is not None:
                together = bundles.setdefault(key, [])
                if not together:  # at the place of the first of them, for the order
                    _lot(lots, message.queue, Way.PLAIN).messages[place] = _LATER
                together.append(place)
                continue
            outgoing = self._alone(message, now)
            way = self.way_of(message.queue, outgoing)
            if one_time is not None and one_time.takes(
                message, outgoing.body, self.limits(message.queue), now
            ):
                way = Way.ONE_TIME
            lot = _lot(lots, message.queue, way)
            lot.messages[place] = outgoing
            if way is Way.ONE_TIME:
                lot.due[outgoing.id] = message.not_before or 0.0
        for places in bundles.values():
            lot = lots[messages[places[0]].queue, Way.PLAIN]
            self._bundle(lot, messages, places, now)
        return [replace(lot, messages=dict(sorted(lot.messages.items()))) for lot in lots.values()]

    def _bundle(
        self, lot: Lot, messages: Sequence[TaskMessage], places: Sequence[int], now: float
    ) -> None:
        """Put calls into as few messages as their size allows."""
        first = messages[places[0]]
        if len(places) == 1:
            lot.messages[places[0]] = self._alone(first, now)
            return
        body = self.claims.codec.encode_bundle([messages[place] for place in places])
        if len(body) > min(self.limits(first.queue).body, self.bundle_bytes):
            half = len(places) // 2
            self._bundle(lot, messages, places[:half], now)
            self._bundle(lot, messages, places[half:], now)
            return
        # Another message than the one that these calls may have been in before.
        lot.messages[places[0]] = replace(self._fitted(first, body, now), id=new_id())
        lot.members[places[0]] = places

    def _alone(self, message: TaskMessage, now: float) -> Outgoing:
        body = self.claims.encode(message, self.limits(message.queue).body)
        return self._fitted(message, body, now)

    def _fitted(self, message: TaskMessage, body: bytes, now: float) -> Outgoing:
        return fitted(
            message,
            body,
            self.limits(message.queue),
            now,
            url=self.url,
            stores_delayed=self.stores_delayed,
        )


_LATER = Outgoing(id="", body=b"")


def _lot(lots: dict[tuple[str, Way], Lot], queue: str, way: Way) -> Lot:
    found = lots.get((queue, way))
    if found is None:
        found = lots[queue, way] = Lot(queue=queue, way=way)
    return found


def _bundle_of(message: TaskMessage) -> _BundleKey | None:
    """Return what calls have in common that go in one message; None for a call that goes alone.

    So does one that is tried again, put off, or taken out of its bundle.
    """
    place = place_of(message.id)
    if place is None or message.not_before is not None or message.dedup_key is not None:
        return None
    if message.retries or message.waits or message.replaced or message.continued:
        return None
    if message.protocol is not None or message.serializer is not None:
        return None
    return place.bundle, message.queue, message.group_key, message.compression
