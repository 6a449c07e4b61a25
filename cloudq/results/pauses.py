"""When those who wait for results look at a store that cannot wake them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.clock import Backoff
from cloudq.messages.ids import place_in_series
from cloudq.results.record import Record

FIRST, LONGEST = 0.002, 1.0
"""The first and the longest pause between two looks, in seconds."""

# Of a task that takes long, the first pause is this share of what it usually takes.
_SHARE = 1 / 16
# A call that was quicker than usual counts for more than a slower one: nobody should wait in vain.
_QUICKER, _SLOWER = 0.5, 0.1
_TASKS = 1_000
# Who waits for so many calls looks more often: one look is for all of them.
_MANY, _SOONER = 10, 1.25
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


@dataclass(slots=True)
class _Usual:
    """Seconds that a task runs, and that its calls have waited for a worker before.

    The latter is of the moment `until` which it is believed: a queue that was long may be empty.
    """

    runs: float
    waits: float
    until: float = 0.0

    @property
    def takes(self) -> float:
        """The seconds from a call of now to its end."""
        return self.runs + (self.waits if time.monotonic() < self.until else 0.0)


class UsualTimes:
    """Learns how long tasks take from their call to their end, from the ends that were seen.

    An estimate from below: about one call in six ends sooner. Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, _Usual] = {}

    def of(self, task: str) -> float:
        """Return the seconds that a task usually takes; 0 for one that is not known."""
        usual = self._tasks.get(task)
        return 0.0 if usual is None else usual.takes

    def learn(self, call: Waited, end: Record) -> None:
        """Note the end of a call. Its worker's clock may be wrong, and is not believed alone."""
        called = call.called_at
        if called is None or not call.task:
            return
        took = time.time() - called
        if end.finished_at is not None:
            took = min(took, end.finished_at - called)
        took = ran = max(0.0, took)
        if end.finished_at is not None and end.started_at is not None:
            ran = min(took, max(0.0, end.finished_at - end.started_at))
        waited = took - ran
        usual = self._tasks.get(call.task)
        if usual is None:
            if len(self._tasks) >= _TASKS:
                self._tasks.clear()
            usual = self._tasks[call.task] = _Usual(ran, waited)
        usual.runs += (ran - usual.runs) * (_QUICKER if ran < usual.runs else _SLOWER)
        usual.waits += (waited - usual.waits) * (1.0 if waited < usual.waits else _SLOWER)
        usual.until = time.monotonic() + usual.waits

    def pauses(self, calls: Sequence[Waited], *, at_once: bool = False) -> Pauses:
        """Plan the looks of one who waits for all of these calls; `at_once` is for the first."""
        usual, ahead = 0.0, 0.0
        for call in calls:
            takes = self.of(call.task)
            usual, ahead = max(usual, takes), max(ahead, (takes or FIRST) - call.age)
        growth = 2.0 if len(calls) < _MANY else _SOONER
        return Pauses(0.0 if at_once else ahead, max(FIRST, usual * _SHARE), growth=growth)


class Pauses:
    """The pauses before the looks of one who waits, in seconds. For one thread.

    The first look is made `ahead` seconds from now; the next follows `first` seconds later, and
    then each pause is `growth` times as long, since who has waited long can wait a little longer.
    """

    def __init__(
        self, ahead: float, first: float = FIRST, longest: float = LONGEST, *, growth: float = 2.0
    ) -> None:
        self._ahead: float | None = min(ahead, longest)
        self._growing = Backoff(min(first, longest), longest, factor=growth, jitter=0.0)

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
