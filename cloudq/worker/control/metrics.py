"""Serves a worker's metrics to Prometheus: tasks that ended, run and wait, and its processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError, install_hint
from cloudq.monitoring.costs.prices import PriceTable, by_service
from cloudq.worker.control.actions import Actions
from cloudq.worker.control.counters import BUCKETS

log = Log("cloudq.worker")


class MetricsServer:
    """Serves `/metrics` from a thread of its own.

    Raises `ConfigurationError` when prometheus-client is not installed or the port is taken.
    """

    def __init__(self, worker: Actions, *, host: str, port: int) -> None:
        self._worker = worker
        try:
            self._core: Any = import_module("prometheus_client.core")
            exposition: Any = import_module("prometheus_client")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"--metrics-port needs the package prometheus-client: {install_hint('prometheus')}"
            ) from error
        registry = exposition.CollectorRegistry(auto_describe=True)
        registry.register(self)
        try:
            self._server, self._thread = exposition.start_http_server(
                port, addr=host, registry=registry
            )
        except OSError as error:
            raise ConfigurationError(
                f"--metrics-port {port}: cannot listen on {host}: {error}"
            ) from error
        self.port = int(self._server.server_port)
        log.info("metrics on http://%s:%d/metrics", host, self.port)

    def describe(self) -> Iterable[Any]:
        """Return nothing: there is no other collector whose names could clash."""
        return ()

    def collect(self) -> Iterable[Any]:
        """Make the metrics of one scrape."""
        core, worker = self._core, self._worker
        ends = core.CounterMetricFamily(
            "cloudq_tasks", "Tasks by how they ended; RETRY counts each.", labels=["task", "state"]
        )
        for (task, state), count in worker.counters.ends().items():
            ends.add_metric([task, state], count)
        yield ends
        times = core.HistogramMetricFamily(
            "cloudq_task_seconds", "Run times of tasks.", labels=["task"]
        )
        for task, (counts, total) in worker.counters.runtimes().items():
            times.add_metric([task], _cumulated(counts), sum_value=total)
        yield times
        yield from self._bill()
        for name, text, value in (
            ("cloudq_tasks_running", "Tasks that run now.", worker.at_work()[0]),
            ("cloudq_tasks_waiting", "Tasks received that wait.", worker.in_hand),
            ("cloudq_processes", "Child processes wanted.", worker.processes),
        ):
            yield core.GaugeMetricFamily(name, text, value=value)

    def _bill(self) -> Iterable[Any]:
        """Make the counters of requests; the app's prices are the list's, or its setting's."""
        core, ledger = self._core, self._worker.ledger
        labels = ["service", "call", "queue"]
        made = [
            core.CounterMetricFamily(f"cloudq_{name}", text, labels=labels)
            for name, text in (
                ("requests", "Requests to a service, of this worker and its processes."),
                ("billed_units", "Units that the requests are billed as."),
                ("cost_dollars", "Their cost by list prices, without free tiers."),
            )
        ]
        sheet = ledger.totals()
        prices = PriceTable(ledger.tariffs(), self._worker.app.conf.prices)
        for (service, call, place), (spent, dollars) in by_service(sheet, prices).items():
            for family, value in zip(made, (spent.requests, spent.units, dollars), strict=True):
                family.add_metric([service, call, place], value)
        yield from made
        messages = core.CounterMetricFamily(
            "cloudq_task_messages", "Messages settled of a task.", labels=["queue", "task"]
        )
        for called, handled in sheet.handled.items():
            messages.add_metric([*called], handled.messages)
        yield messages

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
