"""Sends delayed messages from the store to their queues when they are due."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from cloudq.broker.broker import Broker
from cloudq.clock import Backoff
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import CloudQError

log = Log("cloudq.worker")

# Seconds between looks that fail: what is due waits meanwhile, also after one fault in passing.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class DelayedSender:
    """Serves the queues whose service cannot delay long enough, in one thread; none without any.

    Messages that this worker has stored are sent on time, those of others at most `poll` seconds
    late.
    """

    def __init__(self, broker: Broker, queues: Sequence[str], *, poll: float) -> None:
        self._broker = broker
        self._queues = [queue for queue in queues if broker.stores_delayed(queue)]
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._poll = poll
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delayed", daemon=True)

    def start(self) -> None:
        """Start the thread where there is a queue to serve."""
        if self._queues:
            self._thread.start()

    def add(self, queue: str) -> None:
        """Serve one more queue."""
        if queue in self._queues:
            return
        self._queues = [*self._queues, queue]
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """End the thread; messages due later wait for another worker."""
        self._stopped.set()
        self._broker.wake_delayed()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                pause = self._send_due()
            except CloudQError as error:
                log.warning("could not send due messages; trying again: %s", error)
                pause = self._backoff.failed()
            except BaseException as error:  # if the thread ended, they would wait for ever
                pass_ends(error)
                log.exception("could not send due messages; trying again")
                pause = self._backoff.failed()
            else:
                self._backoff.succeeded()
            self._broker.wait_for_delayed(pause)

    def _send_due(self) -> float:
        """Send what is due, and return the seconds until more may be."""
        found = [self._broker.send_delayed(queue) for queue in self._queues]
        next_due = min((due for due in found if due is not None), default=float("inf"))
        return max(0.0, min(self._poll, next_due - time.time()))
