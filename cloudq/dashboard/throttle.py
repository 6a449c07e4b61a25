"""Slows down whoever guesses passwords: by address, by name, and all together."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Wrong tries that cost nothing, and the pause after the next ones: it doubles each time.
_FREE, _FIRST, _LONGEST = 5, 2.0, 900.0
# Whoever guesses at a name, or everywhere, must not keep others out for long.
_LONGEST_OF_NAME = 30.0
# All addresses together: some hundred machines guess no faster than this.
_FREE_OF_ALL = 100
_FORGOTTEN = 3600.0
_MOST = 10_000
# Whoever has one address of IPv6 has as many as this prefix leaves.
_PREFIX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A try to sign in: from an address, as a name (None: with a token alone).

    `browser` is the id of a browser in which this name has signed in before. It is slowed down by
    its own wrong tries alone: strangers who guess at the name do not keep its owner out.
    """

    address: str
    name: str | None = None
    browser: str = ""


@dataclass(slots=True)
class _Tries:
    """Wrong tries; of an address also how many were at each name."""

    wrong: int = 0
    last: float = 0.0
    names: dict[str | None, int] = field(default_factory=dict["str | None", int])

    def wait(self, now: float, free: int, longest: float) -> float:
        if now - self.last > _FORGOTTEN:
            self.wrong = 0
            self.names.clear()
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

    def wait(self, guess: Guess) -> float:
        """Return the seconds until this may be tried again; 0 if it may be now."""
        now = self._now()
        with self._lock:
            waits = [
                self._tries[key].wait(now, _FREE, longest)
                for key, longest in _keys(guess).items()
                if key in self._tries
            ]
            if not guess.browser:
                waits.append(self._all.wait(now, _FREE_OF_ALL, _LONGEST_OF_NAME))
            return max(waits, default=0.0)

    def wrong(self, guess: Guess) -> None:
        """Count a wrong try."""
        now = self._now()
        with self._lock:
            self._make_room(now)
            counted = [self._tries.setdefault(key, _Tries()) for key in _keys(guess)]
            for tries in counted if guess.browser else (self._all, *counted):
                tries.wrong += 1
                tries.last = now
            names = counted[0].names
            names[guess.name] = names.get(guess.name, 0) + 1

    def right(self, guess: Guess) -> None:
        """Forget the wrong tries at this name; those at others still count."""
        with self._lock:
            first, *others = _keys(guess)
            for key in others:
                self._tries.pop(key, None)
            tries = self._tries.get(first)
            if tries is not None:
                tries.wrong -= tries.names.pop(guess.name, 0)

    def _make_room(self, now: float) -> None:
        if len(self._tries) > _MOST:
            known = self._tries.items()
            self._tries = {k: t for k, t in known if now - t.last < _LONGEST}
            if len(self._tries) > _MOST:
                self._tries.clear()


def _keys(guess: Guess) -> dict[str, float]:
    """Return what is counted of a guess, with the longest pause of each."""
    if guess.browser:
        return {f"browser:{guess.browser}": _LONGEST}
    keys = {f"address:{_block(guess.address)}": _LONGEST}
    return keys if guess.name is None else keys | {f"name:{guess.name}": _LONGEST_OF_NAME}


def _block(address: str) -> str:
    """Return the addresses among which one is chosen freely by whoever has it."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if known.version == 4:
        return str(known)
    return str(known.ipv4_mapped or ipaddress.ip_network((int(known), _PREFIX), strict=False))
