"""When those who wait for results look at a store that cannot wake them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from cloudq.clock import Backoff
from cloudq.messages.ids import place_in_series
from cloudq.results.record import Record

FIRST, LONGEST = 0.002, 1.0
"""The first and the longest pause between two looks, in seconds; each is twice the one before."""

# Of a task that takes long, the first pause is this share of what it usually takes.
_SHARE = 1 / 16
# A call that was quicker than usual counts for more than a slower one: nobody should wait in vain.
_QUICKER, _SLOWER = 0.5, 0.1
_TASKS = 1_000
_WITH_TIME = r"([0-9a-f]{8})-([0-9a-f]{4})-([78])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@dataclass(frozen=True, slots=True)
class Waited:
    """One call that somebody waits for: its id, and the name of its task ("" if not known)."""

    id: str
    task: str

    @property
    def called_at(self) -> float | None:
        """Return when its id was made, in epoch seconds; None for an id that does not tell."""
        found = re.fullmatch(_WITH_TIME, self.id)
        if found is None or (found[3] == "8" and not place_in_series(self.id)):
            return None  # the calls of a bundle may have been made in minutes
        return int(found[1] + found[2], 16) / 1000

    @property
    def age(self) -> float:
        """Return the seconds since its call, as far as its id tells; else as if it were old."""
        called = self.called_at
        return LONGEST if called is None else max(0.0, time.time() - called)


class UsualTimes:
    """Learns how long tasks take from their call to their end, from the ends that were seen.

    An estimate from below: about one call in six ends sooner. Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def of(self, task: str) -> float:
        """Return the seconds that a task usually takes; 0 for one that is not known."""
        return self._seconds.get(task, 0.0)

    def learn(self, call: Waited, end: Record) -> None:
        """Note the end of a call. Its worker's clock may be wrong, and is not believed alone."""
        called = call.called_at
        if called is None or not call.task:
            return
        took = time.time() - called
        if end.finished_at is not None:
            took = min(took, end.finished_at - called)
        took = max(0.0, took)
        usual = self._seconds.get(call.task)
        if usual is None:
            if len(self._seconds) >= _TASKS:
                self._seconds.clear()
            usual = took
        self._seconds[call.task] = usual + (took - usual) * (_QUICKER if took < usual else _SLOWER)

    def pauses(self, calls: Iterable[Waited], *, at_once: bool = False) -> Pauses:
        """Plan the looks of one who waits for all of these calls; `at_once` is for the first."""
        usual, ahead = 0.0, 0.0
        for call in calls:
            takes = self.of(call.task)
            usual, ahead = max(usual, takes), max(ahead, (takes or FIRST) - call.age)
        return Pauses(0.0 if at_once else ahead, max(FIRST, usual * _SHARE))


class Pauses:
    """The pauses before the looks of one who waits, in seconds. For one thread.

    The first look is made `ahead` seconds from now; the next follows `first` seconds later, and
    then each pause is twice as long, since who has waited long can wait a little longer.
    """

    def __init__(self, ahead: float, first: float = FIRST, longest: float = LONGEST) -> None:
        self._ahead: float | None = min(ahead, longest)
        self._growing = Backoff(min(first, longest), longest, jitter=0.0)

    def next(self) -> float:
        """Return the seconds until the next look."""
        ahead, self._ahead = self._ahead, None
        return self._growing.failed() if ahead is None else ahead


class Poller:
    """A `Watcher` of a store that wakes nobody: it waits until the next look is due."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses

    def wait(self, timeout: float) -> bool:
        time.sleep(max(0.0, min(self._pauses.next(), timeout)))
        return True

    def wake(self) -> None:
        """Do nothing: the next look is soon."""

    def close(self) -> None:
        """Do nothing: a poller holds nothing open."""
