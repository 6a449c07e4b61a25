"""Gives queues their turns by their weights: for slots, and for what waits in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping

from cloudq.execution.bundles import Part
from cloudq.worker.in_flight import Cut, Flight, Tray

STALLED = 5.0
"""Seconds that what has no slot waits for one at least, until it is given back."""

# A message that was delivered as often as this is not given back because others take long.
_MOST_DELIVERIES = 3


class Shares:
    """Tells which of some queues is next: the one that got the least for its weight.

    Stride scheduling (Waldspurger and Weihl 1995). A queue without a weight has 1. For callers that
    hold a lock.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.weights = dict(weights)
        self._passed = dict.fromkeys(weights, 0.0)
        self._clock = 0.0

    def enter(self, queue: str) -> None:
        """Let a queue take turns again: those that it left unused before give it no claim now."""
        self._passed[queue] = max(self._passed.get(queue, 0.0), self._clock)

    def first(self, queues: Collection[str]) -> str:
        """Return the one of these whose turn it is."""
        passed = self._passed
        return min(queues, key=lambda name: (passed.get(name, 0.0), name))

    def serve(self, queue: str, count: int) -> None:
        """Note that a queue got so many."""
        passed = self._passed.get(queue, 0.0)
        self._clock = passed
        self._passed[queue] = passed + count / self.weights.get(queue, 1)


class ReadyLine:
    """Flights that wait for a child: those that go again first, then the queues by their weights.

    The flights of one queue keep their order. For callers that hold a lock.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._shares = Shares(weights)
        self._again: deque[Flight] = deque()
        self._by_queue: dict[str, deque[Flight]] = {}  # none of them is empty

    def __bool__(self) -> bool:
        return bool(self._again or self._by_queue)

    def __len__(self) -> int:
        return calls_of(self)

    def __iter__(self) -> Iterator[Flight]:
        yield from self._again
        for line in self._by_queue.values():
            yield from line

    def append(self, flight: Flight) -> None:
        """Let a flight wait behind the others of its queue."""
        queue = flight.delivery.queue
        line = self._by_queue.get(queue)
        if line is None:
            line = self._by_queue[queue] = deque()
            self._shares.enter(queue)
        line.append(flight)

    def put_first(self, flights: Iterable[Flight]) -> None:
        """Let these go before all others, in their order."""
        self._again.extendleft(reversed(list(flights)))

    @property
    def first(self) -> Flight:
        """The next one."""
        return self._again[0] if self._again else self._by_queue[self._turn()][0]

    def popleft(self) -> Flight:
        """Take the next one."""
        if self._again:
            return self._again.popleft()
        queue = self._turn()
        self._shares.serve(queue, 1)
        return self._next_of(queue)

    def _next_of(self, queue: str) -> Flight:
        line = self._by_queue[queue]
        flight = line.popleft()
        if not line:
            del self._by_queue[queue]
        return flight

    def cut(self, tray: Tray, count: int, given_at: float) -> Cut:
        """Take calls from the tray that is next; it stays so while others of it wait."""
        queue = tray.flight.delivery.queue
        self._shares.serve(queue, count)
        cut = tray.cut(count, given_at)
        if not tray.waiting:
            self._next_of(queue)
        return cut

    def take_apart(self) -> None:
        """Put the calls that wait on trays into their places."""
        for line in self._by_queue.values():
            if any(flight.tray is not None for flight in line):
                flights = list(line)
                line.clear()
                line.extend(singly(flights))

    def _turn(self) -> str:
        by_queue = self._by_queue
        return next(iter(by_queue)) if len(by_queue) == 1 else self._shares.first(by_queue)

    def give_up(self, most: int, before: float) -> list[Flight]:
        """Take out up to `most` that came last, of queues whose first one came before that time.

        Times are monotonic seconds. What was given back a few times stays: each delivery counts.
        """
        taken: list[Flight] = []
        for queue, line in list(self._by_queue.items()):
            if line[0].lined_up_at > before:
                continue
            while line and len(taken) < most and may_go_back(line[-1]):
                taken.append(line.pop())
            if not line:
                del self._by_queue[queue]
        return taken

    def clear(self) -> None:
        """Forget all."""
        self._again.clear()
        self._by_queue.clear()


def calls_of(flights: Iterable[Flight]) -> int:
    """Count calls: of a tray, those that wait."""
    return sum(1 if (tray := each.whole_tray) is None else tray.waiting for each in flights)


def singly(flights: Iterable[Flight]) -> list[Flight]:
    """Return flights with those of single calls in the place of trays."""
    found: list[Flight] = []
    for flight in flights:
        tray = flight.whole_tray
        if tray is None:
            found.append(flight)
        else:
            found += tray.take_waiting()
    return found


def may_go_back(flight: Flight) -> bool:
    """Tell whether a flight that waits may be given back: none of an ordered group or a bundle."""
    delivery = flight.delivery
    if delivery.group is not None or isinstance(delivery, Part) or flight.tray is not None:
        return False
    return delivery.attempts < _MOST_DELIVERIES
