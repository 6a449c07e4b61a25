"""Tells the result store that a worker lives, and gets its commands, in one request.

It has a thread of its own, so that a store that is down keeps nothing else waiting.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection
from operator import attrgetter

from cloudq.clock import Backoff
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.monitoring.commands import Command, answer
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.monitoring.queue_pauses import QueuePauses
from cloudq.results.backend import Backend
from cloudq.text import describe
from cloudq.worker.control.ledger import Ledger

log = Log("cloudq.worker")

# After a command there is often another: for a while the pauses are short.
_LIVELY, _LIVELY_FOR = 1.0, 15.0
# The longest pause where requests cost nothing.
_UNBILLED = 1.0
_LONGEST_PAUSE = 60.0
# The share of each pause that is left to chance.
_JITTER = 0.1
# Seconds that a stop waits for the last request.
_LEAVING = 2.0


class HeartbeatSender:
    """Sends a heartbeat every `every` seconds, in a thread; none for 0.

    `heart` makes the heartbeat, `run` carries out a command and returns its reply. `ledger` has
    the counts of requests that go along. `heed` is given the queues that are paused: before the
    first beat and after it, and where requests cost nothing after each.
    """

    def __init__(
        self,
        *,
        heart: Callable[[float], Heartbeat],
        run: Callable[[Command], object],
        every: float,
        ledger: Ledger | None = None,
        heed: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        self._heartbeat_of = heart
        self._run_command = run
        self._every = every
        self._ledger = ledger
        self._heed = heed
        self._lively_until = 0.0
        self._first = True
        # Commands that were run, and may still be in the item.
        self._handled: frozenset[str] = frozenset()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, backend: Backend | None) -> None:
        """Begin to send to this store; nothing without one."""
        if self._every and backend is not None:
            self._thread = threading.Thread(
                target=self._run, args=[backend], name="heartbeat", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Remove the worker's heartbeat, if the store answers soon."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_LEAVING)

    def _run(self, backend: Backend) -> None:
        if not backend.driver.limits.billed:
            self._every = min(self._every, _UNBILLED)
        heartbeats = Heartbeats(backend)
        backoff = Backoff(2 * self._every, _LONGEST_PAUSE, jitter=_JITTER)
        self._look_for_namesake(heartbeats)
        while True:
            try:
                self._beat(heartbeats, backend)
            except BackendError as error:
                if not backoff.failures:
                    log.warning("no heartbeat, so nobody sees or commands this worker: %s", error)
                pause = backoff.failed()
            except BaseException as error:  # without this thread the worker would seem dead
                pass_ends(error)
                log.exception("the heartbeat failed, and is tried again")
                pause = backoff.failed()
            else:
                if backoff.failures:
                    log.info("the heartbeat is back")
                backoff.succeeded()
                pause = self._pause()
            if self._stopped.wait(pause):
                break
        self._leave(heartbeats)

    def _pause(self) -> float:
        lively = time.monotonic() < self._lively_until
        pause = min(_LIVELY, self._every) if lively else self._every
        return pause * random.uniform(1.0 - _JITTER, 1.0)

    def _look_for_namesake(self, heartbeats: Heartbeats) -> None:
        """Warn of a live worker of the same name: the two share one item of the store."""
        own = self._heartbeat_of(self._every)
        now = time.time()
        try:
            other = heartbeats.of(own.hostname)
        except BackendError:
            return  # the first beat tells of it
        if other is not None and other.alive(now) and other.pid != own.pid:
            log.warning(
                "a worker named %s was seen %.0f s ago (pid %d): if it still runs, `status` shows "
                "and commands reach only one of the two; -n NAME names this one",
                own.hostname,
                max(0.0, now - other.seen),
                other.pid,
            )

    def _beat(self, heartbeats: Heartbeats, backend: Backend) -> None:
        heart = self._heartbeat_of(self._every)
        waiting, earlier = heartbeats.exchange(
            heart, handled=self._handled, first=self._first, usage=self._usage()
        )
        if self._first and earlier and self._ledger is not None:
            self._ledger.adopt(earlier)
        if self._first or not backend.driver.limits.billed:
            # One that was paused before this worker had an item for commands is seen here.
            self.read_pauses(backend)
        self._first = False
        backend.write_ends(due=True)  # if none ended since, no commit has written them
        # Commands that were run can still be there: an earlier update arrived late.
        fresh = waiting - self._handled
        self._handled = waiting
        if not fresh:
            return
        self._lively_until = time.monotonic() + _LIVELY_FOR
        found = [command for text in fresh if (command := Command.of(text)) is not None]
        for command in sorted(found, key=attrgetter("sent", "id")):
            self._obey(command, backend, heart.hostname)

    def read_pauses(self, backend: Backend | None) -> None:
        """Heed the pauses in the store, one query; if it does not answer, those that are known."""
        if backend is None or self._heed is None or not self._every:
            return
        try:
            self._heed(QueuePauses(backend).all())
        except BackendError as error:
            log.warning("it is not known whether queues are paused: %s", error)

    def _usage(self) -> bytes:
        return self._ledger.usage() if self._ledger is not None else b""

    def _obey(self, command: Command, backend: Backend, hostname: str) -> None:
        if command.expires < time.time():
            log.warning("command %s has expired and is not run", command.name)
            return
        log.info("running command %s", command.name)
        try:
            reply = self._run_command(command)
        except BaseException as error:  # also what the app's own commands raise, `sys.exit` say
            log.warning("command %s failed: %s", command.name, describe(error))
            reply = {"error": describe(error)}
        if not command.reply:
            return
        try:
            answer(backend, command, hostname, reply)
        except (BackendError, TypeError) as error:
            log.warning("command %s: the reply was not sent: %s", command.name, error)

    def _leave(self, heartbeats: Heartbeats) -> None:
        if self._first:
            return
        try:
            heartbeats.leave(self._heartbeat_of(self._every).hostname, self._usage())
        except Exception as error:  # the app may be closed by now
            log.debug("the heartbeat stays in the store until it expires: %s", error)
