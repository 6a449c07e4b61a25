"""Renews what calls hold in the store under a lease, from a thread beside the tasks."""

from __future__ import annotations

import threading
import time

from cloudq.driver import Key
from cloudq.driver.forks import renew_after_fork
from cloudq.driver.log import Log
from cloudq.errors import ServiceError

log = Log("cloudq.throttling")


class Held:
    """Something that a call holds: it is free again `lease` seconds after its last renewal."""

    kind = "lease"

    def __init__(self, key: Key, lease: float) -> None:
        self.key = key
        self.lease = lease
        self.renew_at = 0.0  # monotonic

    def renew(self) -> bool:
        """Renew the lease; return False if it is no longer this call's. Raises `BackendError`."""
        raise NotImplementedError


# The thread looks after so many seconds whether anything is held, and ends if not.
_IDLE = 30.0


class LeaseRenewer:
    """Renews each lease after a third of its time, in a thread that lives while any is held."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._in_child()
        renew_after_fork(self, LeaseRenewer._in_child)

    def _in_child(self) -> None:
        """Begin with nothing held: the parent renews its own."""
        self._lock, self._woken = threading.Lock(), threading.Event()
        self._held.clear()
        self._is_running = False
        self._wakes_at = 0.0  # monotonic

    def add(self, held: Held) -> None:
        """Renew a lease until `remove`."""
        held.renew_at = time.monotonic() + held.lease / 3
        with self._lock:
            self._held.append(held)
            start, self._is_running = not self._is_running, True
            is_next = held.renew_at < self._wakes_at
        if start:
            threading.Thread(target=self._run, name="leases of calls", daemon=True).start()
        elif is_next:
            self._woken.set()

    def remove(self, held: Held) -> None:
        """Stop renewing a lease."""
        with self._lock:
            if held in self._held:
                self._held.remove(held)

    def _run(self) -> None:
        while self._wait():
            now = time.monotonic()
            with self._lock:
                late = [held for held in self._held if held.renew_at <= now]
            for held in late:
                self._renew(held)

    def _wait(self) -> bool:
        """Wait until a lease is to be renewed; False when none is held after a while."""
        with self._lock:
            now = time.monotonic()
            self._wakes_at = min([now + _IDLE, *(held.renew_at for held in self._held)])
            left = max(0.0, self._wakes_at - now)
        is_woken = self._woken.wait(left)
        self._woken.clear()
        with self._lock:
            self._is_running = bool(self._held) or is_woken
            return self._is_running

    def _renew(self, held: Held) -> None:
        try:
            if not held.renew():
                self.remove(held)
        except ServiceError as error:
            log.warning("cannot renew the %s of %s: %s", held.kind, held.key.partition, error)
        held.renew_at = time.monotonic() + held.lease / 3
