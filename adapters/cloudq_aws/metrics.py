"""CloudWatch metrics of a Lambda function, as log lines in the embedded metric format (EMF).

They cost no request: CloudWatch reads them from the function's log. Each pair of metric and task
name is billed as a custom metric.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from cloudq.execution.settlement import Settlement
from cloudq.results.record import State

_NAMES: Mapping[State, str] = {
    State.SUCCESS: "Succeeded",
    State.FAILURE: "Failed",
    State.RETRY: "Retried",
    State.REVOKED: "Revoked",
    State.REJECTED: "Rejected",
}

# Each name is billed, so senders must not choose them.
_UNREGISTERED = "(unregistered)"


class Metrics:
    """Collects the outcomes of one invocation, then writes them, a line for each task name.

    Metrics are `Succeeded`, `Failed`, `Retried`, `Revoked`, `Rejected` (counts) and `Duration`
    (seconds), with the dimensions `task` and `service`. `registered` are the names of the app's
    tasks; others are counted under one name. Safe to use from many threads.
    """

    def __init__(self, namespace: str, service: str, registered: Container[str]) -> None:
        self._registered = registered
        self._namespace = namespace
        self._service = service
        self._lock = threading.Lock()
        self._outcomes: dict[str, list[Settlement]] = {}

    def add(self, settlement: Settlement) -> None:
        """Add one outcome; those without a task's state are ignored."""
        if settlement.state in _NAMES:
            with self._lock:
                name = settlement.task_name
                if name not in self._registered:
                    name = _UNREGISTERED
                self._outcomes.setdefault(name, []).append(settlement)

    def write(self) -> None:
        """Print what was collected since the last call."""
        with self._lock:
            outcomes, self._outcomes = self._outcomes, {}
        for task, settlements in outcomes.items():
            metrics = EphemeralMetrics(namespace=self._namespace, service=self._service)
            metrics.add_dimension(name="task", value=task)
            for settled in settlements:
                if settled.state is not None:
                    metrics.add_metric(_NAMES[settled.state], MetricUnit.Count, 1)
                record = settled.record
                if record is not None and record.started_at and record.finished_at:
                    took = record.finished_at - record.started_at
                    metrics.add_metric("Duration", MetricUnit.Seconds, took)
            metrics.flush_metrics()
