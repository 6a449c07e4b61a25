"""`app.control` and `app.control.inspect()`: Celery's names and shapes of replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from cloudq.broker.purge import purge_queues
from cloudq.errors import ConfigurationError
from cloudq.monitoring import commands
from cloudq.monitoring.command_registry import Args, CommandRegistry, Kind, Run
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.publishing.results import ResultFactory
from cloudq.results.backend import Backend
from cloudq.results.terminate import Signal, Termination, signal_name
from cloudq.runtime import Runtime

F = TypeVar("F", bound=Callable[..., Any])

# How many tasks one command names: about 20 KB of a worker's item.
_AT_A_TIME = 500

Heard = Callable[[str, Any], None]


class Control:
    """Tells workers what to do. `app.control` is one.

    Commands lie in the workers' items in the result store until their next heartbeat, so a reply
    takes up to one pause between heartbeats. Where `timeout` is left out, that is waited for.
    Every method raises `ConfigurationError` without a result store, and `BackendError`.
    """

    def __init__(
        self,
        runtime: Runtime,
        results: ResultFactory,
        queues: Callable[[], Sequence[str]],
    ) -> None:
        self.panel = CommandRegistry()
        self._runtime = runtime
        self._results = results
        self._queues = queues

    @property
    def backend(self) -> Backend:
        """The store that workers and whoever looks at them share."""
        backend = self._runtime.backend
        if backend is None:
            raise ConfigurationError(
                "workers cannot be looked at or told anything without a result backend, where "
                "their heartbeats lie: set CloudQ(backend=...) or CLOUDQ_BACKEND"
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
        """Make a function a command of this app's workers: `cloudq control NAME ARGS`.

            @app.control.control_command(args=[("n", int)])
            def set_level(state, n):
                return {"ok": n}

        The first parameter is the worker, with its `app` and `hostname`. The others come by name.
        The returned value must be JSON. `args` says how to read those that are not text. With
        `variadic` the last one is a list. Raises `ConfigurationError`.
        """
        return self._decorator("control", name, args, variadic)

    def inspect_command(
        self, *, name: str | None = None, args: Args = (), variadic: bool = False
    ) -> Callable[[F], F]:
        """The same for a command that only looks: `cloudq inspect NAME ARGS`."""
        return self._decorator("inspect", name, args, variadic)

    def _decorator(
        self, kind: Kind, name: str | None, args: Args, variadic: bool
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            run: Run = function
            self.panel.add(run, kind, name=name, args=args, variadic=variadic)
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
        """Send a command to the live workers, or some of them; the replies by hostname.

        One query finds the workers, one write a worker leaves the command, one query a look
        fetches the replies. Raises `ConfigurationError` for a command that there is not.
        """
        arguments = dict(arguments or {})
        spec = self.panel.find(name)
        if spec.run is not None or spec.kind == "inspect":
            spec.check(arguments)
        backend, heartbeats = self.backend, self.heartbeats
        hearts = _chosen(heartbeats.alive(), destination)
        patience = timeout
        if patience is None:
            patience = max((heart.every for heart in hearts), default=0.0) + commands.SLACK
        # Without a reply nobody waits, and a worker that was cut off for a while may still do it.
        lasts = patience if reply else max(60.0, patience)
        command = commands.make(name, arguments, lasts=lasts, reply=reply)
        told = commands.send(heartbeats, hearts, command)
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
        """Send any command; with `reply` a list of `{hostname: reply}`, else None."""
        found = self.call(command, arguments, destination=destination, reply=reply, timeout=timeout)
        return [{hostname: each} for hostname, each in found.items()] if reply else None

    def inspect(
        self, destination: Iterable[str] | None = None, timeout: float | None = None
    ) -> Inspect:
        """Look into the live workers, or some of them."""
        return Inspect(self, destination=destination, timeout=timeout)

    def ping(
        self, destination: Iterable[str] | None = None, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Who is there: a list of `{hostname: {"ok": "pong"}}`."""
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
        """Keep tasks from being started, by workers and functions, and stop those that run.

        A revocation is recorded in the store (one write a task), so it outlives workers. With
        `terminate` the workers are told as well: whoever runs the task kills its process, and
        the task ends as REVOKED; what else ran in that process starts anew. In a function what
        runs goes on.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        name = signal_name(signal)
        for each in ids:
            self._results.untyped(each).revoke()
        if not terminate:
            return [] if reply else None
        return self._stop(ids, name, destination, reply, timeout)

    def carry_out(self, ids: Sequence[str], termination: Termination) -> None:
        """Tell the workers to end those of these tasks that run, which are revoked already."""
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
        # A worker's item holds its commands, so those of a large group are not all there at once.
        paced = reply or len(ids) > _AT_A_TIME
        for start in range(0, len(ids), _AT_A_TIME):
            part = list(ids[start : start + _AT_A_TIME])
            arguments = {"task_id": part, "terminate": True, "signal": signal}
            told += self.broadcast("revoke", arguments, destination, paced, timeout) or []
        return told if reply else None

    def purge(self) -> int | None:
        """Delete all that waits in the app's queues, delayed messages too; how many.

        None where a service does not tell; about so many where it counts so (SQS). The queues are
        the default one and those that tasks and routes name. Dead letters stay. Raises
        `BrokerError`.
        """
        return purge_queues(self._runtime.broker, self._queues())

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
        """Give a task another rate limit, as "10/m", in each worker; 0 for none."""
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
        """Give a task other time limits, in seconds, for those that start from now on."""
        for which, limit in (("soft", soft), ("hard", hard)):
            if limit is not None and not limit > 0:
                raise ConfigurationError(f"time_limit: {which}={limit}: it must be above 0")
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
        """Take `n` processes from each worker, as soon as what they run has ended."""
        return self.broadcast("pool_shrink", {"n": n}, destination, reply, timeout)

    def autoscale(
        self,
        max: int,
        min: int,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Let workers scale between these bounds from now on, however they were started."""
        arguments = {"max": max, "min": min}
        return self.broadcast("autoscale", arguments, destination, reply, timeout)

    def add_consumer(
        self,
        queue: str,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Let each worker receive from a queue too."""
        return self.broadcast("add_consumer", {"queue": queue}, destination, reply, timeout)

    def cancel_consumer(
        self,
        queue: str,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Let each worker receive no more from a queue."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, reply, timeout)

    def shutdown(
        self,
        destination: Iterable[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
    ) -> list[dict[str, Any]] | None:
        """Stop workers warm, as SIGTERM does."""
        return self.broadcast("shutdown", {}, destination, reply, timeout)


class Inspect:
    """Looks into workers. Each method gives `{hostname: reply}`, None when nobody has replied."""

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
        """The tasks received that wait for a place in a process."""
        return self.call("reserved")

    def scheduled(self) -> dict[str, Any] | None:
        """The first delayed tasks of its queues, where the broker shows them.

        They lie in the broker, so two workers of one queue name the same tasks.
        """
        return self.call("scheduled")

    def registered(self) -> dict[str, Any] | None:
        """The names of the tasks it knows."""
        return self.call("registered")

    registered_tasks = registered

    def revoked(self) -> dict[str, Any] | None:
        """The ids of the revoked tasks it has met of late."""
        return self.call("revoked")

    def stats(self) -> dict[str, Any] | None:
        """Counts by task and by state, its processes, and what they use."""
        return self.call("stats")

    def conf(self) -> dict[str, Any] | None:
        """Its settings; what is secret in URLs is masked."""
        return self.call("conf")

    def active_queues(self) -> dict[str, Any] | None:
        """The queues it receives from, with their weights."""
        return self.call("active_queues")

    def query_task(self, *ids: str | Sequence[str]) -> dict[str, Any] | None:
        """What it does with tasks: `{id: ["active" or "reserved", description]}`."""
        flat = [one for each in ids for one in ([each] if isinstance(each, str) else each)]
        return self.call("query_task", ids=flat)

    def report(self) -> dict[str, Any] | None:
        """`{"ok": text}` with versions and settings."""
        return self.call("report")


def _names(destination: Iterable[str]) -> list[str]:
    return [destination] if isinstance(destination, str) else list(destination)


def _chosen(hearts: Sequence[Heartbeat], destination: Iterable[str] | None) -> list[Heartbeat]:
    if destination is None:
        return list(hearts)
    wanted = set(_names(destination))
    return [heart for heart in hearts if heart.hostname in wanted]
