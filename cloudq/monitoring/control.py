"""`app.control` and `app.control.inspect()`: Celery's names and shapes of replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from cloudq.amounts import seconds
from cloudq.broker.purge import purge_queues
from cloudq.driver.forks import imported
from cloudq.errors import ConfigurationError
from cloudq.monitoring import commands
from cloudq.monitoring.command_registry import Args, CommandRegistry, Kind, Run
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.publishing.results import ResultFactory
from cloudq.results.backend import Backend
from cloudq.results.terminate import Signal, Termination, signal_name
from cloudq.runtime import Runtime
from cloudq.tasks.limits.unique import note_purged

F = TypeVar("F", bound=Callable[..., Any])

# Task ids in one command: about 20 KB of a worker's item.
_AT_A_TIME = 500

Heard = Callable[[str, Any], None]


class Control:
    """Sends commands to workers. `app.control` is one.

    A command is stored in the worker's item in the result store, and the worker reads it at its
    next heartbeat. A reply therefore takes up to one heartbeat interval, which is also the default
    `timeout`. Every method raises `ConfigurationError` without a result store, and `BackendError`.
    """

    def __init__(
        self,
        runtime: Runtime,
        results: ResultFactory,
        queues: Callable[[], Sequence[str]],
    ) -> None:
        self.registry = CommandRegistry()
        self._runtime = runtime
        self._results = results
        self._queues = queues

    @property
    def backend(self) -> Backend:
        """The result store, through which workers are watched and commanded."""
        backend = self._runtime.backend
        if backend is None:
            raise ConfigurationError(
                "workers cannot be inspected or controlled without a result backend, which holds "
                "their heartbeats: set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return backend

    @property
    def heartbeats(self) -> Heartbeats:
        """The workers' items."""
        return Heartbeats(self.backend)

    # ---- own commands

    def control_command(
        self, *, name: str | None = None, args: Args = (), variadic: bool = False
    ) -> Callable[[F], F]:
        """Add a command to this app's workers: `cloudq control NAME ARGS`.

            @app.control.control_command(args=[("n", int)])
            def set_level(state, n):
                return {"ok": n}

        The first parameter is the worker, with its `app` and `hostname`. The others are passed by
        name. The returned value must be JSON. `args` pairs a parameter with the function that
        parses it from text. With `variadic` the last one is a list. Raises `ConfigurationError`.
        """
        return self._decorator("control", name, args, variadic)

    def inspect_command(
        self, *, name: str | None = None, args: Args = (), variadic: bool = False
    ) -> Callable[[F], F]:
        """Add a command that only reads, as `control_command` does: `cloudq inspect NAME ARGS`."""
        return self._decorator("inspect", name, args, variadic)

    def _decorator(
        self, kind: Kind, name: str | None, args: Args, variadic: bool
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            run: Run = function
            self.registry.add(run, kind, name=name, args=args, variadic=variadic)
            return function

        return register

    # ---- sending

    def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        destination: Iterable[str] | None = None,
        reply: bool = True,
        timeout: float | None = None,
        heard: Heard | None = None,
    ) -> dict[str, Any]:
        """Send a command to all or some live workers, and return the replies by hostname.

        Costs one query to find the workers, one write for each worker, and one query each time
        the replies are polled. Raises `ConfigurationError` for an unknown command.
        """
        if timeout is not None:
            seconds(timeout, "timeout", ConfigurationError)
        arguments = dict(arguments or {})
        spec = self.registry.find(name)
        if spec.run is not None or spec.kind == "inspect":
            spec.check(arguments)
        if spec.run is None:
            check = imported("cloudq.monitoring.command_arguments").checked
            arguments = dict(check(name, arguments))
        backend, heartbeats = self.backend, self.heartbeats
        workers = _chosen(heartbeats.alive(), destination)
        patience = timeout
        if patience is None:
            patience = max((heart.every for heart in workers), default=0.0) + commands.SLACK
        # No caller waits for it, so a worker that was cut off for a while may still run it.
        lasts = patience if reply else max(60.0, patience)
        command = commands.make(name, arguments, lasts=lasts, reply=reply)
        told = commands.send(heartbeats, workers, command)
        if not reply or not told:
            return {}
        names = [heart.hostname for heart in told]
        return commands.collect(backend, command, names, timeout=patience, heard=heard)

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Send any command. Returns a list of `{hostname: reply}` with `reply`, else None."""
        found = self.call(command, arguments, destination=destination, reply=reply, timeout=timeout)
        return [{hostname: each} for hostname, each in found.items()] if reply else None

    def inspect(
        self, destination: Iterable[str] | None = None, timeout: float | None = None
    ) -> Inspect:
        """Return an `Inspect` for all or some live workers."""
        return Inspect(self, destination=destination, timeout=timeout)

    def ping(
        self, destination: Iterable[str] | None = None, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """List the live workers, as `[{hostname: {"ok": "pong"}}]`."""
        return self.broadcast("ping", destination=destination, reply=True, timeout=timeout) or []

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Iterable[str] | None = None,
        terminate: bool = False,
        signal: Signal = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Keep tasks from starting in workers and functions; with `terminate`, stop running ones.

        A revocation is recorded in the store (one write a task), so it outlives workers. With
        `terminate` the worker that runs the task also kills its process: the task ends as
        REVOKED, and other tasks of that process are run again. A cloud function does not stop
        a running task.
        """
        ids = self._results.ids(task_id)
        name = signal_name(signal)
        for each in ids:
            self._results.untyped(each).revoke()
        if not terminate:
            return [] if reply else None
        return self._stop(ids, name, destination, reply, timeout)

    def carry_out(self, ids: Sequence[str], termination: Termination) -> None:
        """Tell the workers to stop those of these revoked tasks that are running."""
        self._stop(ids, termination.signal, None, termination.wait, termination.timeout)

    def _stop(
        self,
        ids: Sequence[str],
        signal: str,
        destination: Iterable[str] | None,
        reply: bool,
        timeout: float | None,
    ) -> list[dict[str, Any]] | None:
        told: list[dict[str, Any]] = []
        # A worker's item holds its commands, so a large group is sent in parts, one after another.
        paced = reply or len(ids) > _AT_A_TIME
        for start in range(0, len(ids), _AT_A_TIME):
            part = list(ids[start : start + _AT_A_TIME])
            arguments = {"task_id": part, "terminate": True, "signal": signal}
            told += self.broadcast("revoke", arguments, destination, paced, timeout) or []
        return told if reply else None

    def purge(self) -> int | None:
        """Delete all waiting and delayed messages of the app's queues, and return their number.

        The number is approximate on SQS, and None if the service reports none. The queues are the
        default one and those named by tasks and routes. Dead letters stay. Raises
        `BrokerError`.
        """
        at, queues = self._runtime.clock(), list(self._queues())
        purged = purge_queues(self._runtime.broker, queues)
        if self._runtime.backend is not None:
            for queue in queues:
                note_purged(self._runtime.backend, queue, at)
        return purged

    discard_all = purge

    def terminate(
        self,
        task_id: str | Sequence[str],
        destination: Iterable[str] | None = None,
        signal: Signal = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Revoke tasks and stop those that run."""
        return self.revoke(task_id, destination, True, signal, reply, timeout)

    def rate_limit(
        self,
        task_name: str,
        rate_limit: str | float,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Change the rate limit of a task in each worker, such as "10/m"; 0 removes it."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination, reply, timeout)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Change the time limits of a task, in seconds, for runs that start from now on."""
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", arguments, destination, reply, timeout)

    def pool_grow(
        self,
        n: int = 1,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Give each worker `n` more processes."""
        return self.broadcast("pool_grow", {"n": n}, destination, reply, timeout)

    def pool_shrink(
        self,
        n: int = 1,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Remove `n` processes from each worker once their running tasks have ended."""
        return self.broadcast("pool_shrink", {"n": n}, destination, reply, timeout)

    def autoscale(
        self,
        max: int,
        min: int,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Make workers scale between these numbers of processes, however they were started."""
        arguments = {"max": max, "min": min}
        return self.broadcast("autoscale", arguments, destination, reply, timeout)

    def add_consumer(
        self,
        queue: str,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Make each worker receive from this queue as well."""
        return self.broadcast("add_consumer", {"queue": queue}, destination, reply, timeout)

    def cancel_consumer(
        self,
        queue: str,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Make each worker stop receiving from this queue."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, reply, timeout)

    def shutdown(
        self,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Stop workers after their running tasks, as SIGTERM does."""
        return self.broadcast("shutdown", {}, destination, reply, timeout)


class Inspect:
    """Asks workers about their state: `{hostname: reply}` each, or None without replies."""

    def __init__(
        self,
        control: Control,
        *,
        destination: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._control = control
        self._destination = None if destination is None else _names(destination)
        self._timeout = timeout

    def call(self, name: str, **arguments: Any) -> dict[str, Any] | None:
        """Send any inspect command."""
        found = self._control.call(
            name, arguments, destination=self._destination, timeout=self._timeout
        )
        return found or None

    def ping(self) -> dict[str, Any] | None:
        """`{"ok": "pong"}`."""
        return self.call("ping")

    def active(self) -> dict[str, Any] | None:
        """The tasks that run, as Celery describes them."""
        return self.call("active")

    def reserved(self) -> dict[str, Any] | None:
        """The received tasks that wait for a free slot."""
        return self.call("reserved")

    def scheduled(self) -> dict[str, Any] | None:
        """The first delayed tasks of its queues, where the broker shows them.

        They are read from the broker, so two workers of one queue report the same tasks.
        """
        return self.call("scheduled")

    def registered(self) -> dict[str, Any] | None:
        """The names of the tasks it knows."""
        return self.call("registered")

    registered_tasks = registered

    def revoked(self) -> dict[str, Any] | None:
        """The ids of the revoked tasks it has recently received."""
        return self.call("revoked")

    def stats(self) -> dict[str, Any] | None:
        """Counts by task and by state, its processes, and what they use."""
        return self.call("stats")

    def conf(self) -> dict[str, Any] | None:
        """Its settings, with the secrets in URLs masked."""
        return self.call("conf")

    def active_queues(self) -> dict[str, Any] | None:
        """The queues it receives from, with their weights."""
        return self.call("active_queues")

    def query_task(self, *ids: str | Sequence[str]) -> dict[str, Any] | None:
        """Find tasks in workers' hands: `{id: ["active" or "reserved", description]}`."""
        flat = [one for each in ids for one in ([each] if isinstance(each, str) else each)]
        return self.call("query_task", ids=flat)

    def report(self) -> dict[str, Any] | None:
        """`{"ok": text}` with versions and settings."""
        return self.call("report")


def _names(destination: Iterable[str]) -> list[str]:
    return [destination] if isinstance(destination, str) else list(destination)


def _chosen(workers: Sequence[Heartbeat], destination: Iterable[str] | None) -> list[Heartbeat]:
    if destination is None:
        return list(workers)
    wanted = set(_names(destination))
    return [heart for heart in workers if heart.hostname in wanted]
