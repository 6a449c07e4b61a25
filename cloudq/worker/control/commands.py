"""Runs the commands of `cloudq inspect` and `cloudq control` in a worker, and replies."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import psutil

import cloudq
from cloudq.driver import Scheduled
from cloudq.driver.forks import imported
from cloudq.errors import ConfigurationError, DecodeError
from cloudq.messages.body import decode
from cloudq.messages.message import TaskMessage
from cloudq.monitoring.commands import Command
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.monitoring.queue_pauses import QueuePauses
from cloudq.results.record import State
from cloudq.text import describe, json_text, masked
from cloudq.worker.control.actions import Actions
from cloudq.worker.in_flight import Flight
from cloudq.worker.pool.child_handle import Child

# The longest running tasks that a heartbeat names.
_LONGEST = 5
# The delayed messages that `scheduled` shows of each queue.
_SCHEDULED = 100
# The characters of arguments that a reply shows.
_ARGUMENTS = 1000


class WorkerCommands:
    """Runs commands in a worker: `actions` does the work, and replies have Celery's form.

    An app's own commands get this object as their first argument.
    """

    def __init__(self, actions: Actions) -> None:
        self.worker = actions
        self.app = actions.app
        self.hostname = actions.options.hostname
        self._started = time.time()
        self._built_in: Mapping[str, Callable[..., Any]] = {
            "ping": self._ping,
            "active": self._active,
            "reserved": self._reserved,
            "scheduled": self._scheduled,
            "registered": self._registered,
            "revoked": actions.counters.revoked,
            "stats": self._stats,
            "conf": self._conf,
            "active_queues": self._active_queues,
            "query_task": self._query_task,
            "report": self._report,
            "revoke": self._revoke,
            "rate_limit": self._rate_limit,
            "time_limit": self._time_limit,
            "pool_grow": self._pool_grow,
            "pool_shrink": self._pool_shrink,
            "autoscale": self._autoscale,
            "add_consumer": self._add_consumer,
            "cancel_consumer": self._cancel_consumer,
            "heed_pauses": self._heed_pauses,
            "shutdown": self._shutdown,
        }

    def run(self, command: Command) -> object:
        """Carry out a command and return its reply. An error is a reply too."""
        built_in = self._built_in.get(command.name)
        if built_in is not None:
            given = imported("cloudq.monitoring.command_arguments").checked(
                command.name, command.arguments
            )
            return built_in(**given)
        spec = self.app.control.registry.find(command.name)
        if spec.run is None:
            raise ConfigurationError(f"this worker does not know the command {command.name!r}")
        spec.check(command.arguments)
        return spec.run(self, **command.arguments)

    def heart(self, every: float) -> Heartbeat:
        """Make the next heartbeat; the one after follows in `every` seconds."""
        running, begun = self.worker.at_work()
        states, options = self.worker.counters.states(), self.worker.options
        return Heartbeat(
            hostname=self.hostname,
            app=self.app.name,
            pid=os.getpid(),
            version=cloudq.__version__,
            started=round(self._started, 3),
            seen=round(time.time(), 3),
            every=every,
            processes=self.worker.processes,
            threads=options.threads,
            queues=list(self.worker.weights),
            running=running,
            waiting=self.worker.in_hand,
            done=sum(count for state, count in states.items() if state != State.RETRY),
            failed=states[str(State.FAILURE)],
            longest=[
                [each.message.id, each.message.task, round(each.given_at, 3)]
                for each in begun[:_LONGEST]
            ],
        )

    # ---- inspect

    def _ping(self) -> object:
        return {"ok": "pong"}

    def _active(self) -> list[dict[str, Any]]:
        return [self._described(flight, child) for child, flight in self.worker.running()]

    def _reserved(self) -> list[dict[str, Any]]:
        return [self._described(flight) for flight in self.worker.waiting()]

    def _scheduled(self) -> list[dict[str, Any]]:
        found: list[Scheduled] = []
        for queue in self.worker.weights:
            try:
                found += self.app.broker.scheduled(queue, count=_SCHEDULED)
            except ConfigurationError:  # this broker cannot list them
                continue
        return [self._due(each) for each in sorted(found, key=attrgetter("due"))]

    def _due(self, scheduled: Scheduled) -> dict[str, Any]:
        try:
            message = decode(scheduled.body, limit=self.app.conf.max_body)
        except DecodeError as error:
            request: dict[str, Any] = {"id": scheduled.id, "error": describe(error)}
        else:
            request = self._request(message)
        return {"eta": scheduled.due, "priority": None, "request": request}

    def _registered(self) -> list[str]:
        return sorted(self.app.tasks)

    def _stats(self) -> dict[str, Any]:
        worker, process = self.worker, psutil.Process()
        total: dict[str, int] = {}
        for (task, _), count in worker.counters.ends().items():
            total[task] = total.get(task, 0) + count
        cpu = process.cpu_times()
        return {
            "total": total,
            "states": dict(worker.counters.states()),
            "pid": os.getpid(),
            "uptime": round(time.time() - self._started),
            "version": cloudq.__version__,
            "broker": {"transport": self.app.conf.broker.partition(":")[0]},
            "pool": {
                "implementation": "processes",
                "max-concurrency": worker.processes * worker.options.threads,
                "threads": worker.options.threads,
                "processes": list(worker.pids()),
                "max-tasks-per-child": worker.options.max_tasks_per_child or "N/A",
            },
            "prefetch_count": 0,
            "limits": worker.limits(),
            "rusage": {
                "utime": cpu.user,
                "stime": cpu.system,
                "maxrss": process.memory_info().rss,
                "children_rss": sum(map(_resident, worker.pids())),
            },
        }

    def _conf(self) -> dict[str, Any]:
        return masked(self.app.conf.as_json())

    def _active_queues(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "routing_key": name, "weight": weight}
            for name, weight in self.worker.weights.items()
        ]

    def _query_task(self, ids: str | Sequence[str]) -> dict[str, Any]:
        wanted = {ids} if isinstance(ids, str) else set(ids)
        found: dict[str, Any] = {}
        for state, tasks in (("reserved", self._reserved()), ("active", self._active())):
            found |= {task["id"]: [state, task] for task in tasks if task["id"] in wanted}
        return found

    def _report(self) -> dict[str, str]:
        lines = [
            f"software -> cloudq:{cloudq.__version__} py:{platform.python_version()}",
            f"platform -> {platform.platform()}",
            f"worker   -> {self.hostname} pid:{os.getpid()} processes:{self.worker.processes} "
            f"threads:{self.worker.options.threads}",
            *(f"{name}: {value!r}" for name, value in self._conf().items()),
        ]
        return {"ok": "\n".join(lines)}

    def _described(self, flight: Flight, child: Child | None = None) -> dict[str, Any]:
        """Describe a task that this worker holds, in Celery's form."""
        assert flight.job is not None  # true of all that run or wait
        delivery = flight.delivery
        return self._request(flight.job.message) | {
            "hostname": self.hostname,
            "time_start": flight.given_at if child is not None else None,
            "acknowledged": False,
            "delivery_info": {
                "exchange": "",
                "routing_key": delivery.queue,
                "priority": None,
                "redelivered": delivery.attempts > 1,
            },
            "worker_pid": child.pid if child is not None else None,
        }

    def _request(self, message: TaskMessage) -> dict[str, Any]:
        args, kwargs = self.app.runtime.redaction.arguments(message)
        return {
            "id": message.id,
            "name": message.task,
            "args": _short(args),
            "kwargs": _short(kwargs),
            "type": message.task,
            "retries": message.retries,
        }

    # ---- control

    def _revoke(
        self, task_id: str | Sequence[str], terminate: bool = False, signal: str = "SIGTERM"
    ) -> dict[str, Any]:
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        if not terminate:
            return {"ok": f"tasks {', '.join(ids)} flagged as revoked"}
        running = self.worker.revoke(ids)
        if not running:
            return {"ok": f"terminate: tasks {', '.join(ids)} not running here"}
        return {"ok": f"terminate: {', '.join(running)}"}

    def _rate_limit(self, task_name: str, rate_limit: str | float) -> dict[str, str]:
        return {"ok": self.worker.change_rate(task_name, rate_limit)}

    def _time_limit(
        self, task_name: str, soft: float | None = None, hard: float | None = None
    ) -> dict[str, str]:
        self.worker.limit(task_name, soft, hard)
        return {"ok": "time limits set successfully"}

    def _pool_grow(self, n: int = 1) -> dict[str, str]:
        return {"ok": f"pool will grow to {self.worker.resize(n)} processes"}

    def _pool_shrink(self, n: int = 1) -> dict[str, str]:
        return {"ok": f"pool will shrink to {self.worker.resize(-n)} processes"}

    def _autoscale(self, max: int, min: int | None = None) -> dict[str, str]:
        self.worker.autoscale(max, max if min is None else min)
        return {"ok": f"autoscale now max={max} min={max if min is None else min}"}

    def _add_consumer(self, queue: str) -> dict[str, str]:
        added = self.worker.consume(queue)
        return {"ok": f"add consumer {queue}" if added else f"already consuming from {queue!r}"}

    def _cancel_consumer(self, queue: str) -> dict[str, str]:
        gone = self.worker.ignore(queue)
        return {"ok": f"no longer consuming from {queue}" if gone else f"not consuming {queue!r}"}

    def _heed_pauses(self) -> dict[str, str]:
        # By the marks in the store: two commands may come in one beat, or late.
        paused = QueuePauses(self.app.control.backend).all()
        self.worker.heed_pauses(paused)
        return {"ok": f"paused: {', '.join(paused) or 'none'}"}

    def _shutdown(self) -> dict[str, str]:
        self.worker.request_stop()
        return {"ok": "shutting down"}


def _short(values: Any) -> Any:
    """Return the arguments as on the wire, or the beginning of their text where that is long."""
    text = json_text(values, mask=False, most=_ARGUMENTS)
    return values if len(text) <= _ARGUMENTS else f"{text[:_ARGUMENTS]}…"


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:  # the process has just ended
        return 0
