"""Sends on delayed messages that were parked in the store, when their time has come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from cloudq.broker.broker import Broker
from cloudq.errors import CloudQError

log = logging.getLogger("cloudq.worker")

_LONGEST_PAUSE = 60.0


class DelayedSender:
    """One thread for all queues that cannot delay; none where every queue can.

    What this worker parked itself is sent on in time; what others have, within `poll` seconds of
    its time.
    """

    def __init__(self, broker: Broker, queues: Sequence[str], *, poll: float) -> None:
        self._broker = broker
        self._queues = [queue for queue in queues if broker.stores_delayed(queue)]
        self._poll = poll
        self._pause = poll
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parked", daemon=True)

    def start(self) -> None:
        if self._queues:
            self._thread.start()

    def add(self, queue: str) -> None:
        """Look after one more queue that cannot delay."""
        if queue in self._queues:
            return
        self._queues = [*self._queues, queue]
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """End the thread; what is due then waits for another worker."""
        self._stopped.set()
        self._broker.wake_delayed()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                due = self._send_due()
                self._pause = self._poll
            except CloudQError as error:
                log.warning("parked messages wait: %s", error)
                due = []
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            except Exception:  # without this thread they would wait for ever
                log.exception("parked messages wait")
                due = []
            next_due = min(due, default=float("inf")) - time.time()
            self._broker.wait_for_delayed(max(0.0, min(self._pause, next_due)))

    def _send_due(self) -> list[float]:
        """When the next one of each queue is due, as far as there is one."""
        found = [self._broker.send_delayed(queue) for queue in self._queues]
        return [due for due in found if due is not None]
