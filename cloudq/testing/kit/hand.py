"""Takes messages one at a time and treats each as a worker does, whatever fails meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from cloudq.app import CloudQ
from cloudq.driver import Code, Delivery
from cloudq.driver.ends import Died
from cloudq.driver.log import Log
from cloudq.errors import ServiceError
from cloudq.execution.consume import Consumer
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settled, Settlement
from cloudq.results.waiting import Places
from cloudq.testing.kit.faults import FaultPlan
from cloudq.testing.kit.in_memory import in_memory_services
from cloudq.testing.kit.plan import Unit

log = Log("cloudq.testing")

T = TypeVar("T")

_PASSING = frozenset({Code.THROTTLED, Code.UNREACHABLE})
# A real worker waits between its tries, without an end. In a test nothing else happens meanwhile,
# so trying at once has the same effect.
_TRIES = 100


class Hand(Consumer):
    """Does the work of one thread of a worker. Not safe to share between threads."""

    def __init__(
        self,
        app: CloudQ,
        *,
        hostname: str,
        run_async: Callable[[Coroutine[Any, Any, Any]], Any],
        places: Places | None = None,
    ) -> None:
        super().__init__(
            # No supervisor ends the process of a task at its hard limit.
            app.executor(
                hostname=hostname, run_async=run_async, places=places, stop_at_hard_limit=True
            ),
            log=log,
            tries=_TRIES,
            again=frozenset(Code),
            tracebacks=True,
        )
        self._lease = app.conf.lease
        inside = in_memory_services(app)
        self._faults = inside.faults if inside and inside.faults else FaultPlan()

    def receive(self, queue: str) -> Delivery | None:
        """Receive the next message of a queue that is due."""
        receive = partial(self.broker.receive, queue, count=1, wait=0.0, lease=self._lease)
        try:
            found = _tried(receive)
        except Died:
            self._faults.revive()
            return None
        return found[0] if found else None

    def run(self, delivery: Delivery) -> list[Settlement]:
        """Run a message to its end; its outcome, or nothing if a plan had the worker die.

        Raises `BrokerError` or `BackendError` when a service fails and goes on failing: the message
        then comes back when its lease ends.
        """
        try:
            done = self.consume([delivery])
        except Died:
            log.info("the worker died at %s, as planned; its lease will end", delivery.id)
            return []
        finally:
            self._faults.revive()
        return [settlement for _, settlement in done]

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Open deliveries, again and again while the store is busy or away."""
        return _tried(partial(super().open, deliveries))

    def run_job(self, job: Job) -> Settlement:
        """Call the task of a job, unless the plan has the worker die before or after it."""
        unit = Unit(job.delivery.queue, job.message.task)
        self._faults.reach("start", unit)
        settlement = super().run_job(job)
        # Also after a death within the task, whose code may have caught it.
        self._faults.reach("end", unit)
        return settlement


def _tried(call: Callable[[], T]) -> T:
    """Call again and again while the service is busy or away."""
    for _ in range(_TRIES - 1):
        try:
            return call()
        except ServiceError as error:
            if error.code not in _PASSING:
                raise
    return call()
