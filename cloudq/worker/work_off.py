"""Works off what other threads put into a queue; what a service refuses is tried again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from cloudq.clock import Backoff

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 30.0
# An attempt that takes as long as this, in seconds, is late: others are made beside it.
_LATE = 0.2
# So many attempts are made at a time at most, those that are late not counted.
_AT_A_TIME = 4


class Crew(Generic[T]):
    """Threads that work off what is put here, in as few attempts as it takes. Thread-safe.

    An attempt takes up to `full`, and returns those that are to be tried again. The first thread
    makes one at once; what comes meanwhile shares the next, as databases commit in groups. The
    others, its helpers, join in where enough waits for a full one, or where all are late.

    With a `linger` the first thread waits up to so many seconds until there are enough for a full
    one, unless `hurries` tells it not to.

    What is refused is tried again: at once after an attempt in which something passed, else after
    growing pauses of up to 30 s, which `end` ends.
    """

    def __init__(
        self,
        attempt: Callable[[list[T]], list[T]],
        *,
        name: str,
        full: int,
        linger: float = 0.0,
        hurries: Callable[[], bool] = lambda: False,
    ) -> None:
        self.full = full
        self._attempt = attempt
        self._linger = linger
        self._hurries = hurries
        self._queued: deque[T] = deque()
        lock = threading.Lock()
        self._first, self._others = threading.Condition(lock), threading.Condition(lock)
        self._is_free = True  # the first thread
        self._is_lingering = False
        self._is_watched = False  # one of the others looks out for late attempts
        self._ended = False
        self._began: dict[int, float] = {}  # the attempts under way, by the ids of their threads
        self._name = name
        self._threads: list[threading.Thread] = []

    def start(self, helpers: int = 0) -> None:
        """Start the first thread, and so many helpers."""
        self._threads = [
            threading.Thread(target=self._work, name=self._name, daemon=True),
            *(
                threading.Thread(target=self._help, name=f"late-{self._name}", daemon=True)
                for _ in range(helpers)
            ),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, items: Sequence[T]) -> None:
        """Have these worked off."""
        with self._first:
            self._queued.extend(items)
            is_full = len(self._queued) >= self.full
            if self._is_free:
                if is_full or not self._is_lingering or self._hurries():
                    self._first.notify()
            elif is_full or not self._is_watched:
                self._others.notify()

    def end(self, patience: float = 0.0) -> None:
        """End the threads when what is queued was tried once more, and wait so many seconds."""
        with self._first:
            self._ended = True
            self._first.notify()
            self._others.notify_all()
        ends = time.monotonic() + patience
        for thread in self._threads:
            if patience:
                thread.join(max(0.0, ends - time.monotonic()))

    def _work(self) -> None:
        waiting: list[T] = []
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            fresh, ended = self._fresh(backoff.left if waiting else None)
            waiting += fresh
            # While the service is down only the clock starts a new try, however much comes in.
            if waiting and (ended or not backoff.left):
                waiting = self._tried(waiting, backoff)
            if ended:
                return

    def _fresh(self, patience: float | None) -> tuple[list[T], bool]:
        """Wait for the first of what is queued and take a batch; also tell if that was the last."""
        with self._first:
            self._is_free = True
            if not (self._queued or self._ended):
                self._first.wait(patience)
            if self._queued and self._linger:
                self._gather()
            self._is_free = False
            return self._batch(), self._ended and not self._queued

    def _gather(self) -> None:
        """Wait until there are enough for a full attempt, if nothing hurries."""
        until = time.monotonic() + self._linger
        self._is_lingering = True
        while len(self._queued) < self.full and not (self._ended or self._hurries()):
            if (left := until - time.monotonic()) <= 0.0:
                break
            self._first.wait(left)
        self._is_lingering = False

    def _batch(self) -> list[T]:
        queued = self._queued
        batch = [queued.popleft() for _ in range(min(len(queued), self.full))]
        if len(queued) >= self.full:
            self._others.notify()
        return batch

    def _tried(self, items: list[T], backoff: Backoff) -> list[T]:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            left = self._attempt(items)
        finally:
            del self._began[thread]
        if len(left) == len(items):
            backoff.failed()
        else:
            backoff.succeeded()
        return left

    def _help(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while batch := self._spare(backoff):
            if left := self._tried(batch, backoff):
                self.put(left)

    def _spare(self, backoff: Backoff) -> list[T]:
        """Wait until help is wanted, and take a batch; none of them at the end."""
        with self._others:
            while not self._ended:
                if (pause := backoff.left) or not self._queued or self._is_free:
                    self._others.wait(pause or None)
                elif (late_in := self._late_in()) <= 0.0:
                    return self._batch()
                elif self._is_watched:
                    self._others.wait()
                else:
                    self._is_watched = True
                    self._others.wait(late_in)
                    self._is_watched = False
            return []

    def _late_in(self) -> float:
        """Return in how many seconds the next attempt may begin beside those under way."""
        now = time.monotonic()
        began = list(self._began.values())
        late_in = max(began, default=now) + _LATE - now
        if len(self._queued) >= self.full:
            timely = sum(at + _LATE > now for at in began)
            return 0.0 if timely < _AT_A_TIME else late_in
        return late_in
