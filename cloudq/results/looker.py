"""Looks for the ends of tasks that coroutines wait for, in one thread for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from cloudq.driver import Watcher
from cloudq.results.call_marks import is_before
from cloudq.results.pauses import Pauses
from cloudq.results.record import Record

LOOK_EVERY = 1.0
"""The longest pause, in seconds, between two looks at a store that wakes its readers."""

# Those that are due as soon as this are looked at along with the others, in one read.
_TOGETHER = 0.02


class _Waiter:
    """A coroutine that waits for one of some tasks to end. `due` is when the next look is."""

    def __init__(self, calls: Mapping[str, str | None], pauses: Pauses) -> None:
        self.calls = calls
        self.due = time.monotonic() + pauses.next()
        self._pauses = pauses
        from asyncio import Future, get_running_loop

        self._loop = get_running_loop()
        self._future: Future[Mapping[str, Record]] = self._loop.create_future()

    async def told(self) -> Mapping[str, Record]:
        return await self._future

    def pause(self, *, is_woken: bool) -> None:
        """Put off the next look."""
        self.due = time.monotonic() + (LOOK_EVERY if is_woken else self._pauses.next())

    def tell(self, found: Mapping[str, Record] | Exception) -> bool:
        """Hand over what was found, from the thread; False where its loop has ended."""
        try:
            self._loop.call_soon_threadsafe(self._end, found)
        except RuntimeError:  # it is closed
            return False
        return True

    def _end(self, found: Mapping[str, Record] | Exception) -> None:
        if self._future.done():  # cancelled meanwhile
            return
        if isinstance(found, Exception):
            self._future.set_exception(found)
        else:
            self._future.set_result(found)


class Looker:
    """Looks at records for coroutines, in batched reads. Safe to use from many threads.

    Its thread lives while somebody waits, and no other thread is held. `read` returns the records
    of tasks, with True also of calls whose ids others had before; `watch` a new watcher of their
    store, or None where the store wakes nobody.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str], bool], Mapping[str, Record]],
        watch: Callable[[], Watcher | None],
    ) -> None:
        self._read = read
        self._watch = watch
        self._changed = threading.Condition()
        self._waiters: set[_Waiter] = set()
        self._is_running = False
        self._watcher: Watcher | None = None

    async def ended(self, calls: Mapping[str, str | None], pauses: Pauses) -> Mapping[str, Record]:
        """Wait until one of these tasks has ended; the records of those that have.

        An id may have the mark of its call, to which no earlier one's end is an answer. `pauses`
        says when to look where the store wakes nobody.

        Raises `BackendError`. Nothing is left behind when it is cancelled.
        """
        waiter = _Waiter(calls, pauses)
        with self._changed:
            self._waiters.add(waiter)
            self._wake()
            start, self._is_running = not self._is_running, True
        if start:
            threading.Thread(target=self._run, name="results", daemon=True).start()
        try:
            return await waiter.told()
        finally:
            with self._changed:
                self._waiters.discard(waiter)
                if not self._waiters:
                    self._wake()

    def _wake(self) -> None:
        self._changed.notify()
        if self._watcher is not None:
            self._watcher.wake()

    def _run(self) -> None:
        watcher: Watcher | None = None
        try:
            watcher = self._watch()
            with self._changed:
                self._watcher = watcher
            while self._go_on():
                self._look(is_woken=watcher is not None)
                self._pause(watcher)
        except Exception as error:  # each of them waits for this thread alone
            self._give_up(error)
        finally:
            if watcher is not None:
                watcher.close()

    def _go_on(self) -> bool:
        with self._changed:
            self._is_running = bool(self._waiters)
            if not self._is_running:
                self._watcher = None  # another thread starts with the next waiter
            return self._is_running

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            left = list(self._waiters)
            self._waiters.clear()
            self._is_running, self._watcher = False, None
        for waiter in left:
            waiter.tell(error)

    def _look(self, *, is_woken: bool) -> None:
        """Read once for all who are due, and tell those whose tasks have ended."""
        by = time.monotonic() + _TOGETHER
        with self._changed:
            due = [waiter for waiter in self._waiters if waiter.due <= by]
        ids = list(dict.fromkeys(id for waiter in due for id in waiter.calls))
        marked = any(call for waiter in due for call in waiter.calls.values())
        ended = {id: record for id, record in self._read(ids, marked).items() if record.terminal}
        for waiter in due:
            found = {
                id: ended[id]
                for id, call in waiter.calls.items()
                if id in ended and (call is None or not is_before(ended[id], call))
            }
            waiter.pause(is_woken=is_woken)
            if found:
                waiter.tell(found)
                with self._changed:
                    self._waiters.discard(waiter)

    def _pause(self, watcher: Watcher | None) -> None:
        """Wait until somebody is due, comes or leaves, or the store was written."""
        with self._changed:
            left = min((w.due for w in self._waiters), default=0.0) - time.monotonic()
            if watcher is None:
                if left > 0:
                    self._changed.wait(left)
                return
        if left > 0 and watcher.wait(left):
            with self._changed:
                for waiter in self._waiters:
                    waiter.due = 0.0
