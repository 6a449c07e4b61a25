"""One look at the services for all who ask: kept for a moment, and its requests counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cloudq.app import CloudQ
from cloudq.driver.billing import Meter, Readings, meter_of
from cloudq.errors import CloudQError
from cloudq.monitoring.costs.prices import PriceTable, checked_prices, known_tariffs
from cloudq.text import describe

T = TypeVar("T")

_MOST = 500
# A look may take this share of the time between two of them.
_SHARE = 0.01
_SLOWEST = 60.0
_PATIENCE = 3.0
_BUSY = "this is being looked at, which takes long: load the page again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Generic[T]):
    """The outcome of one look: a value, or the error that there was instead.

    `requests` are those that are billed, and `dollars` their list price.
    """

    value: T | None = None
    error: str | None = None
    at: float = 0.0
    seconds: float = 0.0
    requests: float = 0.0
    dollars: float = 0.0


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    part: Part[Any] | None = None
    until: float = 0.0


class Looks:
    """Makes each look once for all who ask within `refresh` seconds. Safe for many threads."""

    def __init__(self, app: CloudQ, refresh: float) -> None:
        self.app = app
        self.refresh = refresh
        self.patience = _PATIENCE
        self.made = 0
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._readings = Readings()
        self._kept: dict[object, _Kept] = {}
        self._prices: PriceTable | None = None

    def part(
        self, key: object, make: Callable[..., T], *args: Any, ttl: float | None = None
    ) -> Part[T]:
        """Return what `make(*args)` returns, or has returned a moment ago; or its `CloudQError`.

        Where another makes this look, and that takes long, it returns the look before: else a few
        who ask for one that is slow would take all the threads of all pages.
        """
        kept = self._of(key)
        if not kept.lock.acquire(timeout=self.patience):
            return kept.part or Part(error=_BUSY, at=self.app.runtime.clock())
        try:
            now = time.monotonic()
            if kept.part is None or now >= kept.until:
                kept.part = self._look(make, args)
                pause = self.refresh * 0.9 if ttl is None else ttl
                # A slow look is made less often: who looks must not slow down what is looked at.
                slower = min(kept.part.seconds / _SHARE, _SLOWEST)
                kept.until = time.monotonic() + max(pause, slower)
            return kept.part
        finally:
            kept.lock.release()

    def forget(self) -> None:
        """Look anew at everything, after an action."""
        with self._lock:
            self._kept.clear()

    def _of(self, key: object) -> _Kept:
        with self._lock:
            if len(self._kept) > _MOST:
                now = time.monotonic()
                self._kept = {k: one for k, one in self._kept.items() if one.until > now}
                if len(self._kept) > _MOST:
                    self._kept.clear()
            return self._kept.setdefault(key, _Kept())

    def _look(self, make: Callable[..., T], args: tuple[Any, ...]) -> Part[T]:
        meters = self._meters()
        # Where requests are billed one look is made after the other, so that each has its own.
        with self._counting if meters else nullcontext():
            if meters:
                self._readings.grown(meters)
            self.made += 1
            began, at = time.monotonic(), self.app.runtime.clock()
            value: T | None = None
            error: str | None = None
            try:
                value = make(*args)
            except CloudQError as raised:
                error = describe(raised)
            seconds = time.monotonic() - began
            requests, dollars = self._spent(self._meters())
        return Part(
            value=value, error=error, at=at, seconds=seconds, requests=requests, dollars=dollars
        )

    def _meters(self) -> list[Meter]:
        try:
            drivers: list[object] = [self.app.broker.driver]
            if self.app.backend is not None:
                drivers.append(self.app.backend.driver)
        except CloudQError:  # it cannot be opened, which the look itself will tell
            return []
        return [meter for driver in drivers if (meter := meter_of(driver)) is not None]

    def _spent(self, meters: list[Meter]) -> tuple[float, float]:
        if not meters:
            return 0.0, 0.0
        if self._prices is None:
            own = checked_prices(self.app.conf.prices, "the setting prices")
            self._prices = PriceTable(known_tariffs(), own)
        requests = dollars = 0.0
        for spot, spent in self._readings.grown(meters).items():
            requests += spent.requests
            dollars += self._prices.dollars(spot.price, spent.units)
        return requests, dollars


class Watch:
    """The looks of one page: what they were, how old they are, and what they cost."""

    def __init__(self, looks: Looks) -> None:
        self.looks = looks
        self.app = looks.app
        self.parts: list[Part[Any]] = []

    def part(
        self, key: object, make: Callable[..., T], *args: Any, ttl: float | None = None
    ) -> Part[T]:
        """Return a look as `Looks.part`, as a part of this page."""
        found = self.looks.part(key, make, *args, ttl=ttl)
        self.parts.append(found)
        return found

    @property
    def at(self) -> float:
        """The time of the oldest look."""
        return min((part.at for part in self.parts), default=self.app.runtime.clock())

    @property
    def requests(self) -> float:
        """The billed requests of one look at all of it."""
        return sum(part.requests for part in self.parts)

    @property
    def requests_an_hour(self) -> float:
        """The billed requests in an hour of a page that stays open."""
        return self.requests * 3600 / self.looks.refresh

    @property
    def dollars_an_hour(self) -> float:
        """The list price of an hour of a page that stays open."""
        return sum(part.dollars for part in self.parts) * 3600 / self.looks.refresh
