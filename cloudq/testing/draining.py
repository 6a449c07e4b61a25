"""Runs what is on an app's queues in the test's own thread, until nothing is left or due."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from functools import cached_property
from math import inf
from typing import Any

from cloudq.app import CloudQ
from cloudq.clock import patience
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.event_loop import Loop
from cloudq.execution.settlement import Settlement

log = Log("cloudq.testing")

# A result over the store's limit is recorded as a failure at the second try.
_TRIES = 3
# Few at a time, so that no lease ends while the others of its batch run.
_AT_A_TIME = 10


def drain(
    app: CloudQ, queues: Sequence[str] | None = None, timeout: float = 60.0
) -> list[Settlement]:
    """Run every message that is due and those that follow, and return the outcomes in order.

    `queues` left out are those of `app.queues()`. What is delayed stays where it is. Raises
    `TimeoutError` when there is still work after `timeout` seconds, and `BrokerError` or
    `BackendError` when a service fails: the message then comes back when its lease ends, as in a
    worker.
    """
    names = app.queues() if queues is None else list(queues)
    with ExitStack() as ending:
        return _drained(app, names, _Coroutines(ending), timeout)


class _Coroutines:
    """Runs coroutines on one event loop, as a process of a worker does; most calls need none."""

    def __init__(self, ending: ExitStack) -> None:
        self._ending = ending

    @cached_property
    def _loop(self) -> Loop:
        return self._ending.enter_context(Loop())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run(coroutine)


def _drained(
    app: CloudQ, names: list[str], coroutines: _Coroutines, timeout: float
) -> list[Settlement]:
    given = patience(timeout)
    deadline = inf if given is None else time.monotonic() + given
    executor = app.executor(hostname="drain", run_async=coroutines.run, stop_at_hard_limit=True)
    consumer = Consumer(executor, log=log, tries=_TRIES)
    done: list[Settlement] = []
    idle = 0
    while idle < len(names):
        queue = names[0]
        names = [*names[1:], queue]
        deliveries = app.broker.receive(queue, count=_AT_A_TIME, wait=0.0, lease=app.conf.lease)
        idle = 0 if deliveries else idle + 1
        lease = app.broker.lease(queue, app.conf.lease)
        if short := [delivery for delivery in deliveries if delivery.lease < lease]:
            app.broker.extend(short, lease=lease)
        if deliveries:
            done += [settlement for _, settlement in consumer.consume(deliveries)]
        if deliveries and time.monotonic() > deadline:
            raise TimeoutError(
                f"{len(done)} messages were run and there were still some after {timeout:g} s: "
                "does a task send itself, or fail and retry without a delay?"
            )
    return done
