"""Bundles at work: one message whose calls run, and end, one by one.

A `Part` is one call as a delivery of its own. Its `Parcel` is the message: it holds back outcomes
until all parts have one or a second has passed, so that they are stored together, and it says how
the message itself is to be settled when all of its parts are. What goes back unrun leaves as a
smaller bundle, so that the calls that have ended do not come again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Generic, TypeVar

from cloudq.broker.broker import Broker, Refused
from cloudq.driver import Code, Delivery
from cloudq.errors import BrokerError, CloudQError, DecodeError, PublishError
from cloudq.execution.dead_reason import dead_reason
from cloudq.execution.settlement import Action, Settled, Settlement, come_back, unrecorded
from cloudq.messages.body import encode, fields_of
from cloudq.messages.bundle import Bundle, Unread
from cloudq.messages.codec import Codec
from cloudq.messages.ids import place_of
from cloudq.messages.message import TaskMessage
from cloudq.results.bundle_item import Delivered

T = TypeVar("T")

LONGEST_HOLD = 1.0
"""Seconds for which an outcome waits for those of its bundle, at most."""
# A bundle that has ended its process twice is taken apart at the next delivery.
_TOO_OFTEN = 3
# Errors after which a service may take the same request.
_PASSING = frozenset({Code.THROTTLED, Code.UNREACHABLE, Code.UNKNOWN})


class Part(Delivery):
    """One call of a bundle. Its lease is that of the whole message, and so is its body."""

    __slots__ = ("call", "number", "parcel")

    def __init__(self, parcel: Parcel, call: TaskMessage | Unread, number: int) -> None:
        whole = parcel.whole
        super().__init__(
            queue=whole.queue,
            id=whole.id,
            body=whole.body,
            receipt=whole.receipt,
            attempts=whole.attempts,
            lease=whole.lease,
            group=whole.group,
            sent_at=whole.sent_at,
        )
        self.parcel = parcel
        self.call = call
        self.number = number

    @property
    def name(self) -> str:
        """The id of the call; of one that cannot be read, one of its own."""
        call = self.call
        return f"{self.id}.{self.number}" if isinstance(call, Unread) else call.id

    def unread(self, call: Unread) -> DecodeError:
        """Return the error of a call that cannot be read."""
        error, fields = DecodeError(call.reason), fields_of(call.body)
        place = place_of(str(fields.get("id"))) if fields else None
        if place is not None and place.bundle == self.parcel.name:  # else it tells another's id
            error.fields = fields
        return error

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Parcel:
    """One delivery of a bundle. Safe to use from many threads.

    `lost` is set when its lease is known to be lost: what becomes of it is no matter of ours.
    `revoked` are the places of calls that were found to be revoked since it came.
    """

    def __init__(self, whole: Delivery, bundle: Bundle) -> None:
        self.whole = whole
        self.name = bundle.name
        self.calls = bundle.calls
        self.lost = False
        self.revoked: Collection[int] = ()
        # On an ordered queue the first that has no end is the one that may end its process.
        self.first: Part | None = None
        self._lock = threading.Lock()
        self._parts: dict[int, Part] = {}
        self._unknown = set(range(len(self.calls)))
        self._held: list[Any] = []
        self._held_since: float  # monotonic, of the first that is held
        self._left = self._unknown.copy()
        self._back: dict[int, Settlement] = {}
        self._rest: Sequence[TaskMessage] | None = None

    @property
    def parts(self) -> list[Part]:
        """All of its parts, in their order."""
        return [self.part(number) for number in range(len(self.calls))]

    def part(self, number: int) -> Part:
        """Return a part; it is made when it is first asked for."""
        made = self._parts.get(number)
        if made is None:
            made = self._parts.setdefault(number, Part(self, self.calls[number], number))
        return made

    @property
    def is_too_often(self) -> bool:
        """True if it has come so often that its calls should go by themselves."""
        return self.whole.attempts >= _TOO_OFTEN

    @property
    def delivered(self) -> Delivered:
        """This delivery, as the store knows it."""
        return Delivered(self.whole.id, self.whole.attempts)

    # ---- outcomes

    def hold(self, numbers: Iterable[int], outcomes: Iterable[object]) -> list[Any]:
        """Hold outcomes of these parts back; return all that are held when the last has come."""
        with self._lock:
            if not self._held:
                self._held_since = time.monotonic()
            self._unknown.difference_update(numbers)
            self._held += outcomes
            return self._take() if not self._unknown else []

    @property
    def holds(self) -> bool:
        """True while an outcome is held back."""
        return bool(self._held)

    def overdue(self, now: float) -> list[Any]:
        """Return what has been held for too long at `now`, in monotonic seconds."""
        with self._lock:
            return self._take() if now - self._held_since >= LONGEST_HOLD else []

    def _take(self) -> list[Any]:
        held, self._held = self._held, []
        return held

    # ---- messages

    def settled(self, part: Part, settlement: Settlement) -> bool:
        """Note that a part is settled; tell whether all are."""
        with self._lock:
            self._left.discard(part.number)
            if settlement.action is Action.NOTHING:
                self.lost = True
            elif settlement.action is Action.RELEASE:
                self._back[part.number] = settlement
            return not self._left

    def done(self, numbers: Iterable[int]) -> bool:
        """Note that parts have ended, and that this is recorded; tell whether all are settled."""
        with self._lock:
            self._left.difference_update(numbers)
            return not self._left

    def end(self, broker: Broker, now: float) -> Settlement:
        """Say how to settle the message, after what goes on without it is sent.

        Raises `BrokerError` when that is refused: the message stays until it is not.
        """
        if self.lost:
            return Settlement(action=Action.NOTHING)
        if not self._back:
            return Settlement(action=Action.ACK)
        back = [self.part(number) for number in sorted(self._back)]
        given = [self._back[part.number] for part in back]
        keeps_place = broker.limits(self.whole.queue).keeps_place(self.whole.group)
        in_place = keeps_place or len(back) == len(self.calls)
        if not in_place:
            if self._rest is None:
                self._rest = [
                    _copy(part, each, now) for part, each in zip(back, given, strict=True)
                ]
            try:
                self._send_rest(broker)
            except BrokerError as error:
                if error.code in _PASSING:
                    raise
                in_place = True
            except CloudQError:  # it can be sent in no way: then nothing else can be done
                in_place = True
        if not in_place:
            return Settlement(action=Action.ACK)
        after = max(each.after for each in given)
        return Settlement(action=Action.RELEASE, after=after, reason=given[0].reason)

    def _send_rest(self, broker: Broker) -> None:
        if not self._rest:
            return
        try:
            broker.send(self._rest)
        except PublishError as error:
            refused = {rejected.index for rejected in error.rejected}
            self._rest = [each for at, each in enumerate(self._rest) if at in refused]
            raise
        self._rest = ()


def _copy(part: Part, settlement: Settlement, now: float) -> TaskMessage:
    """Return the message of a call that goes back: in a smaller bundle, or alone if delayed."""
    call = part.call
    assert isinstance(call, TaskMessage)  # what cannot be read is not released
    if call.queue != part.queue:
        call = call.model_copy(update={"queue": part.queue})
    due = now + settlement.after if settlement.after else call.not_before
    return come_back(call, part.attempts, not_before=due)


class Held(Generic[T]):
    """Holds back the outcomes of parts, so that those of a bundle are committed together.

    `delivery_of` says of which delivery an outcome is. Safe to use from many threads.
    """

    def __init__(self, delivery_of: Callable[[T], Delivery]) -> None:
        self._delivery_of = delivery_of
        self._lock = threading.Lock()
        self._parcels: dict[int, Parcel] = {}

    def __len__(self) -> int:
        return len(self._parcels)

    def ready(self, outcomes: Iterable[T]) -> list[T]:
        """Take outcomes in, and return those to commit now."""
        ready: list[T] = []
        came: dict[Parcel, list[tuple[Part, T]]] = {}
        for outcome in outcomes:
            part = self._delivery_of(outcome)
            if isinstance(part, Part):
                came.setdefault(part.parcel, []).append((part, outcome))
            else:
                ready.append(outcome)
        for parcel, together in came.items():
            numbers = [part.number for part, _ in together]
            ready += self.added(parcel, numbers, [outcome for _, outcome in together])
        return ready + self.overdue() if self._parcels else ready

    def added(self, parcel: Parcel, numbers: Iterable[int], outcomes: Iterable[T]) -> list[T]:
        """Take in outcomes of a parcel's parts, and return those of it to commit now."""
        ready: list[T] = parcel.hold(numbers, outcomes)
        with self._lock:
            if parcel.holds:
                self._parcels[id(parcel)] = parcel
            else:
                self._parcels.pop(id(parcel), None)
        return ready

    def overdue(self) -> list[T]:
        """Return those that have been held for long enough."""
        return self._taken(time.monotonic())

    def left(self) -> list[T]:
        """Return all that are held."""
        return self._taken(inf)

    def _taken(self, now: float) -> list[T]:
        with self._lock:
            parcels = list(self._parcels.values())
            taken = [outcome for parcel in parcels for outcome in parcel.overdue(now)]
            self._parcels = {id(each): each for each in parcels if each.holds}
        return taken


def by_parcel(settled: Sequence[Settled]) -> list[list[Settled]]:
    """Group parts by their messages."""
    parcels: dict[int, list[Settled]] = {}
    for pair in settled:
        part = pair[0]
        assert isinstance(part, Part)
        parcels.setdefault(id(part.parcel), []).append(pair)
    return list(parcels.values())


def whole_of(delivery: Delivery) -> Delivery:
    """Return the message that has the lease of a delivery: of a part, that of its bundle."""
    return delivery.parcel.whole if isinstance(delivery, Part) else delivery


def is_revoked(delivery: Delivery) -> bool:
    """Tell whether a call of a bundle was found to be revoked since that came."""
    if not isinstance(delivery, Part) or not delivery.parcel.revoked:
        return False
    place = place_of(delivery.call.id) if isinstance(delivery.call, TaskMessage) else None
    return place is not None and place.number in delivery.parcel.revoked


def body_of(delivery: Delivery) -> bytes:
    """Return the body of a delivery; of a part, that of its call as a message of its own."""
    if not isinstance(delivery, Part):
        return delivery.body
    return delivery.call.body if isinstance(delivery.call, Unread) else encode(delivery.call)


def alone(part: Part, message: TaskMessage) -> Settlement:
    """Send a call on by itself: its bundle has ended its process too often, and may again."""
    reason = f"its bundle was delivered {part.attempts} times: it goes on alone"
    copy = come_back(message, part.attempts, waits=message.waits + 1)
    return unrecorded(message, Action.ACK, resend=copy, reason=reason)


def dispose_parts(settled: Sequence[Settled], broker: Broker, now: float) -> Disposal:
    """Settle parts, and say what is to become of the messages of which all are settled."""
    done = Disposal()
    done.refused += _bury(settled, broker)
    kept = {id(refused.delivery) for refused in done.refused}
    for part, settlement in settled:
        assert isinstance(part, Part)
        if id(part) in kept or not part.parcel.settled(part, settlement):
            continue
        try:
            end = part.parcel.end(broker, now)
        except BrokerError as error:
            done.refused.append(Refused(delivery=part, code=Code(error.code), reason=str(error)))
            continue
        done.wholes.append((part.parcel.whole, end))
        done.last[id(part.parcel.whole)] = part
    return done


def wholes(settled: Sequence[Settled], broker: Broker) -> tuple[list[Settled], list[Refused]]:
    """Put in place of the calls of bundles what becomes of their messages.

    Messages with calls that have no outcome yet are left out. Return what was refused, too.
    """
    parts = [pair for pair in settled if isinstance(pair[0], Part)]
    if not parts:
        return list(settled), []
    done = dispose_parts(parts, broker, broker.clock())
    others = [pair for pair in settled if not isinstance(pair[0], Part)]
    return [*others, *done.wholes], done.refused


def in_order(pairs: Sequence[tuple[Delivery, T]]) -> Sequence[tuple[Delivery, T]]:
    """Return the calls of each bundle in the order that they have in it."""
    parcels = {id(part.parcel): part.parcel for part, _ in pairs if isinstance(part, Part)}
    places = {id(part): at for parcel in parcels.values() for at, part in enumerate(parcel.parts)}
    return sorted(pairs, key=lambda pair: places.get(id(pair[0]), 0)) if places else pairs


def _bury(settled: Sequence[Settled], broker: Broker) -> list[Refused]:
    """Bury those that are to be dead-lettered, of one reason together."""
    buried: dict[str, list[Part]] = {}
    for part, settlement in settled:
        if isinstance(part, Part) and settlement.action is Action.DEAD_LETTER:
            buried.setdefault(dead_reason(settlement, broker), []).append(part)
    return [each for reason, parts in buried.items() for each in bury(parts, reason, broker)]


def bury(parts: Sequence[Part], reason: str, broker: Broker) -> list[Refused]:
    """Put copies of calls among the dead letters, and leave their messages where they are."""
    copies = [
        replace(part.parcel.whole, body=_as_sent(part, broker.codec), id=part.name)
        for part in parts
    ]
    owners = {id(copy): part for copy, part in zip(copies, parts, strict=True)}
    refused = broker.copy_to_dead(copies, reason=reason)
    return [replace(each, delivery=owners[id(each.delivery)]) for each in refused]


def _as_sent(part: Part, codec: Codec) -> bytes:
    """Sign and encrypt a call of a bundle, as a message of its own, where its bundle was."""
    return codec.rewrapped(body_of(part), queue=part.queue, id=part.name)


class Disposal:
    """The messages of bundles that are to be settled, and parts for which that failed."""

    def __init__(self) -> None:
        self.wholes: list[Settled] = []
        self.refused: list[Refused] = []
        self.last: dict[int, Part] = {}

    def told(self, refused: Iterable[Refused]) -> list[Refused]:
        """Return what was refused, with the last part in place of the message."""
        found = [
            replace(each, delivery=self.last.get(id(each.delivery), each.delivery))
            for each in refused
        ]
        return [*self.refused, *found]
