"""Keeps the calls of which one has ended their process, until each has run alone in one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from operator import attrgetter

from cloudq.worker.in_flight import Flight, Tray

# A call whose process died this often because of others goes free no more: it runs alone.
_MOST_RESTARTS = 3
# So many calls that ended their process are remembered, by their ids.
_REMEMBERED = 1_000
# A suspect that has run for so many seconds keeps the others waiting no longer, and up to so many
# run at a time then.
_SLOW = 10.0
_MOST = 8


def has_room(begun: Sequence[float | None], now: float, slots: int) -> bool:
    """Tell whether one more suspect may run, beside those that began then; None: not yet.

    One runs at a time, so that most processes are those of the worker. But it may take hours, or
    never end, and the others have done nothing wrong.
    """
    if not begun:
        return True
    slow = all(at is not None and now - at >= _SLOW for at in begun)
    return slow and len(begun) < min(_MOST, slots)


class Suspects:
    """Calls that are to run one after the other, each in a process with nothing else in it.

    They are those that a process had begun when it died, and those that died alone in one before
    and were delivered again. Their leases are kept meanwhile, so that no broker counts a delivery.
    The dispatcher calls this under its lock.
    """

    def __init__(self) -> None:
        self.waiting: deque[Flight] = deque()
        self._culprits: OrderedDict[str, None] = OrderedDict()
        self._deaths = 0

    def __bool__(self) -> bool:
        return bool(self.waiting)

    @property
    def first(self) -> Flight:
        """The next one."""
        return self.waiting[0]

    def popleft(self) -> Flight:
        """Take the next one."""
        return self.waiting.popleft()

    def knows(self, flight: Flight) -> bool:
        """Tell whether an earlier delivery of this call has ended its process."""
        if not self._culprits or flight.job is None:
            return False
        return flight.job.message.id in self._culprits

    def knows_one_of(self, tray: Tray) -> bool:
        """Tell whether an earlier delivery of one of these calls has ended its process."""
        calls = tray.calls
        return bool(self._culprits) and any(
            calls.id(number) in self._culprits for number in range(tray.given, len(calls))
        )

    def add(self, flights: Iterable[Flight]) -> None:
        """Suspect these, of which one has ended the process that they shared.

        Most tasks that end their process do so soon, so the one that was begun last comes first.
        """
        self._deaths += 1
        for flight in sorted(flights, key=attrgetter("given_at", "number"), reverse=True):
            flight.death = self._deaths
            self.waiting.append(flight)

    def convict(self, culprit: Flight) -> list[Flight]:
        """Remember a call that died alone, and return those that it clears of the same death."""
        if culprit.job is not None:
            self._culprits[culprit.job.message.id] = None
            if len(self._culprits) > _REMEMBERED:
                self._culprits.popitem(last=False)
        if not culprit.death:
            return []
        cleared: list[Flight] = []
        waiting, self.waiting = self.waiting, deque()
        for flight in waiting:
            is_cleared = flight.death == culprit.death and flight.restarts <= _MOST_RESTARTS
            (cleared if is_cleared else self.waiting).append(flight)
        cleared.reverse()  # so that the one begun last is again the last
        return cleared
