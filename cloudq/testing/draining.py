"""Runs what is on an app's queues in the test's own thread, until nothing is left or due."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cloudq.app import CloudQ
from cloudq.driver import Delivery
from cloudq.errors import BrokerError
from cloudq.execution.commit import commit, dispose
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Settled, Settlement

# Few at a time, so that no lease ends while the others of its batch run.
_AT_A_TIME = 10


def drain(
    app: CloudQ, queues: Sequence[str] | None = None, timeout: float = 60.0
) -> list[Settlement]:
    """Run every message that is due, and those that come of it; what became of each, in order.

    `queues` left out are those of `app.queues()`. What is delayed stays where it is. Raises
    `TimeoutError` when there is still work after `timeout` seconds, and `BrokerError` or
    `BackendError` when a service fails: the message at work then comes back by its lease, as it
    does in a worker.
    """
    deadline = time.monotonic() + timeout
    names = app.queues() if queues is None else list(queues)
    executor = app.executor(hostname="drain")
    done: list[Settlement] = []
    idle = 0
    while idle < len(names):
        queue = names[0]
        names = [*names[1:], queue]
        deliveries = app.broker.receive(queue, count=_AT_A_TIME, wait=0.0, lease=app.conf.lease)
        idle = 0 if deliveries else idle + 1
        done += [settlement for _, settlement in _settled(app, executor, deliveries)]
        if deliveries and time.monotonic() > deadline:
            raise TimeoutError(
                f"{len(done)} messages were run and there were still some after {timeout:g} s: "
                "does a task send itself, or fail and retry without a delay?"
            )
    return done


def _settled(app: CloudQ, executor: Executor, deliveries: Sequence[Delivery]) -> list[Settled]:
    jobs, settled = executor.open(deliveries)
    done = _finished(app, settled)
    for job in jobs:
        done += _finished(app, [(job.delivery, executor.run(job))])
    return done


def _finished(app: CloudQ, settled: Sequence[Settled]) -> list[Settled]:
    """Make the outcomes durable, then settle the messages."""
    done: list[Settled] = []
    waiting = settled
    while waiting:
        result = commit(waiting, app.broker, app.backend, app.joins)
        done += result.ready
        # A result that is too large for the store comes back smaller; what comes back as it was
        # has met a failure that trying again at once would only meet again.
        if result.error is not None and list(result.failed) == list(waiting):
            raise result.error
        waiting = result.failed
    refused = dispose(done, app.broker)
    if refused:
        first = refused[0]
        raise BrokerError(
            f"{len(refused)} messages were not settled: {first.reason}", code=first.code
        )
    return done
