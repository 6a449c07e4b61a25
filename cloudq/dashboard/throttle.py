"""Slows down whoever guesses passwords: by address, by name, and all together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

# Wrong tries that cost nothing, and the pause after the next ones: it doubles each time.
_FREE, _FIRST, _LONGEST = 5, 2.0, 900.0
# Whoever guesses at a name, or everywhere, must not keep others out for long.
_LONGEST_OF_NAME = 30.0
NAME = "name:"
"""Begins the key of a user's name."""
# All addresses together: some hundred machines guess no faster than this.
_FREE_OF_ALL = 100
_FORGOTTEN = 3600.0
_MOST = 10_000


@dataclass(slots=True)
class _Tries:
    wrong: int = 0
    last: float = 0.0

    def wait(self, now: float, free: int, longest: float = _LONGEST) -> float:
        if now - self.last > _FORGOTTEN:
            self.wrong = 0
        if self.wrong < free:
            return 0.0
        pause = min(_FIRST * 2.0 ** min(self.wrong - free, 20), longest)
        return max(0.0, self.last + pause - now)


class Throttle:
    """Counts wrong tries to sign in. Safe to use from many threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._tries: dict[str, _Tries] = {}
        self._all = _Tries()

    def wait(self, *keys: str) -> float:
        """Return the seconds until these may try again; 0 if they may now."""
        now = self._now()
        with self._lock:
            waits = [
                self._tries[key].wait(now, _FREE, _longest(key))
                for key in keys
                if key in self._tries
            ]
            return max([self._all.wait(now, _FREE_OF_ALL, _LONGEST_OF_NAME), *waits])

    def wrong(self, *keys: str) -> None:
        """Count a wrong try."""
        now = self._now()
        with self._lock:
            if len(self._tries) > _MOST:
                known = self._tries.items()
                self._tries = {k: t for k, t in known if now - t.last < _LONGEST}
                if len(self._tries) > _MOST:
                    self._tries.clear()
            for tries in (self._all, *(self._tries.setdefault(key, _Tries()) for key in keys)):
                tries.wrong += 1
                tries.last = now

    def right(self, *keys: str) -> None:
        """Forget the wrong tries of these, after a right one."""
        with self._lock:
            for key in keys:
                self._tries.pop(key, None)


def _longest(key: str) -> float:
    return _LONGEST_OF_NAME if key.startswith(NAME) else _LONGEST
