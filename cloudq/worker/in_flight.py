"""Deliveries that this worker holds, from receive to settlement."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from cloudq.driver import Delivery
from cloudq.driver.immutable import immutable
from cloudq.execution.bundles import Parcel, Part
from cloudq.execution.outcomes import Job
from cloudq.execution.plain_bundles import PlainParcel
from cloudq.execution.settlement import Action, Settlement
from cloudq.messages.message import TaskMessage
from cloudq.messages.plain_calls import PlainCalls
from cloudq.results.bundle_item import PlainEnd
from cloudq.results.record import Record, State

Ended = tuple[int, str | None, float, float, float]
"""The number of a plain call that succeeded, its value as JSON text, when it began and ended in
epoch seconds, and the seconds that it took."""


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One delivery that the worker holds. Times are monotonic seconds.

    After `lease_ends` others may get the message; `extended` says that its lease is no longer the
    one that it was received with. `doubtful` is set once that moment may have
    passed, and stays. `lost` says that the broker refused to extend its lease, `short` that it has
    yet to be extended before the call may start. `stop_at` is the
    hard limit of the task while a child runs it. `restarts` counts how often its child died and
    another task was, or may have been, the cause; `death` is the number of the last death that it
    is suspected of. `lined_up_at` is when it began to wait for a child, `given_at` when one got it,
    in epoch seconds, and `took` are the seconds that it ran there. `revoked` is set by a command
    that ends it. `asked_at` is when its lease was asked for that has no answer yet, else 0.
    `tray` is that of a bundle of plain calls, and of each call that was taken out of it.
    """

    number: int
    delivery: Delivery
    lease_ends: float
    job: Job | None = None
    extended: bool = False
    doubtful: bool = False
    lost: bool = False
    short: bool = False
    stop_at: float | None = None
    settling: bool = False
    restarts: int = 0
    death: int = 0
    lined_up_at: float = 0.0
    given_at: float = 0.0
    took: float = 0.0
    revoked: bool = False
    asked_at: float = 0.0
    tray: Tray | None = None

    @property
    def whole_tray(self) -> Tray | None:
        """The tray of the bundle whose calls this flight stands for; else None."""
        return self.tray if self.job is None else None

    def restart(self) -> None:
        """Note that its child died and that it is to run again, within the same delivery."""
        self.restarts += 1
        if self.job is not None:
            self.job = replace(self.job, fenced=True)

    def released(self, reason: str, after: float = 0.0) -> Settlement:
        """Return the settlement that puts it back in its queue, due after this many seconds."""
        message = self.job.message if self.job else None
        return Settlement(
            action=Action.RELEASE,
            task_id=message.id if message else "",
            task=message.task if message else "",
            reason=reason,
            after=after,
        )


@immutable
class Begun:
    """Calls that a child was given together, in epoch seconds; the message of the first of them."""

    count: int
    message: TaskMessage
    given_at: float


class Tray:
    """A bundle of plain calls, which need no flight each until something concerns one alone.

    Its calls have numbers from 0 on; those from `given` on wait for a child. For callers that hold
    the dispatcher's lock, but for `pairs`.
    """

    __slots__ = ("_flights", "calls", "end", "first", "flight", "given", "left", "parcel")

    def __init__(self, flight: Flight, plain: PlainParcel, first: int, flights: Flights) -> None:
        self.flight = flight
        self.parcel: Parcel = plain.parcel
        self.calls: PlainCalls = plain.calls
        self.end: Record = plain.end  # what the records of successes have in common
        self.first = first  # the number that a flight of the first call has
        self.given = 0
        self.left = len(plain.calls)  # of which the message holds the lease
        self._flights = flights

    @property
    def waiting(self) -> int:
        """The number of calls that no child has been given."""
        return len(self.calls) - self.given

    @property
    def message(self) -> TaskMessage:
        """One of the messages, which differ in nothing but their arguments."""
        return self.calls[0]

    def cut(self, count: int, given_at: float) -> Cut:
        """Take the next calls, for a child."""
        start, self.given = self.given, self.given + count
        return Cut(self, start, self.given, given_at)

    def take_waiting(self) -> list[Flight]:
        """Hold each call that waits as a flight of its own."""
        start, self.given = self.given, len(self.calls)
        return self.take_out(range(start, self.given))

    def take_out(self, numbers: Collection[int], given_at: float = 0.0) -> list[Flight]:
        """Hold each of these calls as a flight of its own."""
        whole = self.flight
        made: list[Flight] = []
        for number in numbers:
            part = self.parcel.part(number)
            made.append(
                Flight(
                    number=self.first + number,
                    delivery=part,
                    lease_ends=whole.lease_ends,
                    job=Job(delivery=part, message=self.calls[number]),
                    extended=whole.extended,
                    doubtful=whole.doubtful,
                    lost=whole.lost,
                    short=whole.short,
                    revoked=whole.revoked,
                    lined_up_at=whole.lined_up_at,
                    given_at=given_at,
                    tray=self,
                )
            )
        self._flights.take_out(made)
        return made

    def settlement(self, end: Ended) -> Settlement:
        """Make the outcome of a call that succeeded, as that of any call."""
        number, value, started, finished, _ = end
        message = self.calls[number]
        return Settlement(
            action=Action.ACK,
            task_id=message.id,
            task=message.task,
            name=message.task,
            state=State.SUCCESS,
            record=replace(
                self.end, id=message.id, value=value, started_at=started, finished_at=finished
            ),
        )

    def pairs(self, ends: Sequence[Ended]) -> list[tuple[Flight, Settlement]]:
        """Hold calls that have succeeded as flights of their own. Safe to call from any thread."""
        flights = self.take_out([end[0] for end in ends])
        for flight in flights:
            flight.settling = True
        return list(zip(flights, map(self.settlement, ends), strict=True))

    def placed(self, ends: Iterable[Ended]) -> list[PlainEnd]:
        """Return ends with the places of the calls in the bundle."""
        rows = self.calls.rows
        return [(rows[number][0], value, began, ended) for number, value, began, ended, _ in ends]


class Cut:
    """Calls of a tray that were given to one child together, from `start` to before `stop`.

    `left` has the numbers of those without an outcome. For callers that hold the dispatcher's lock.
    """

    __slots__ = ("given_at", "left", "start", "stop", "tray")

    def __init__(self, tray: Tray, start: int, stop: int, given_at: float) -> None:
        self.tray = tray
        self.start = start
        self.stop = stop
        self.given_at = given_at  # epoch seconds
        self.left = set(range(start, stop))

    @property
    def number(self) -> int:
        """The number of the first call, among those of all flights."""
        return self.tray.first + self.start

    def has(self, flight: int) -> bool:
        """Tell whether a flight of this number would be that of one of the calls left."""
        return flight - self.tray.first in self.left

    def take_out(self, numbers: Collection[int]) -> list[Flight]:
        """Hold each of these calls as a flight of its own."""
        self.left.difference_update(numbers)
        return self.tray.take_out(numbers, self.given_at)


@dataclass(slots=True, kw_only=True, eq=False)
class Ends:
    """Plain calls of one bundle that have succeeded."""

    tray: Tray
    ends: list[Ended]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the calls."""
        return [end[0] for end in self.ends]

    @property
    def part(self) -> Part:
        """The first of the calls, as a delivery."""
        return self.tray.parcel.part(self.ends[0][0])


class Flights:
    """All deliveries that the worker holds, by number. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[int, Flight] = {}
        self._next = 0
        self._plain = 0  # calls on trays that have no flight, without one for each tray

    def __len__(self) -> int:
        with self._lock:  # both change together
            return len(self._all) + self._plain

    def add(self, deliveries: Iterable[Delivery], lease_ends: float) -> list[Flight]:
        """Number these and hold them."""
        with self._lock:
            added: list[Flight] = []
            for delivery in deliveries:
                self._next += 1
                flight = Flight(number=self._next, delivery=delivery, lease_ends=lease_ends)
                self._all[self._next] = flight
                added.append(flight)
            return added

    def split(self, flight: Flight, parts: Iterable[Delivery]) -> list[Flight]:
        """Hold the parts of a bundle in place of its message."""
        with self._lock:
            del self._all[flight.number]
            made: list[Flight] = []
            for part in parts:
                self._next += 1
                own = Flight(
                    number=self._next,
                    delivery=part,
                    lease_ends=flight.lease_ends,
                    extended=flight.extended,
                    doubtful=flight.doubtful,
                    lost=flight.lost,
                    short=flight.short,
                    revoked=flight.revoked,
                )
                self._all[self._next] = own
                made.append(own)
            return made

    def hold_plain(self, flight: Flight, plain: PlainParcel) -> Tray:
        """Hold the calls of a bundle in its message's flight, and number them."""
        with self._lock:
            tray = flight.tray = Tray(flight, plain, self._next + 1, self)
            self._next += tray.left
            self._plain += tray.left - 1
            return tray

    def take_out(self, flights: Iterable[Flight]) -> None:
        """Hold these, which are of calls that were on a tray."""
        with self._lock:
            for flight in flights:
                self._all[flight.number] = flight
                self._plain -= 1

    def remove(self, flights: Iterable[Flight]) -> None:
        """Forget these, which are settled or given back."""
        with self._lock:
            for flight in flights:
                if self._all.pop(flight.number, None) is not None and flight.tray is not None:
                    self._take_off(flight.tray, 1)

    def remove_plain(self, tray: Tray, count: int) -> None:
        """Forget so many calls of a tray that have ended without a flight of their own."""
        with self._lock:
            self._plain -= count
            self._take_off(tray, count)

    def _take_off(self, tray: Tray, count: int) -> None:
        """Forget the message with the last of its calls: it has the lease for all of them."""
        tray.left -= count
        if tray.left == 0 and self._all.pop(tray.flight.number, None) is not None:
            self._plain += 1

    def all(self) -> list[Flight]:
        """Return a copy of the list."""
        with self._lock:
            return list(self._all.values())
