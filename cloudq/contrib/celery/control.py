"""`app.control` and `app.control.inspect()` with Celery's names, or the reasons against them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cloudq.monitoring import control

_EVENTS = "events are kept by the setting task_events: see `cloudq events`"
_NO_BROADCAST = "nothing is broadcast: workers are reached through the result store"

# Celery's methods without a counterpart, and why.
REFUSED = {
    "enable_events": _EVENTS,
    "disable_events": _EVENTS,
    "heartbeat": "a worker's heartbeat is a write to the store: see `cloudq status`",
    "election": _NO_BROADCAST,
    "Mailbox": _NO_BROADCAST,
    "mailbox": _NO_BROADCAST,
    "pool_restart": "stop the worker with app.control.shutdown() and start it again",
    "revoke_by_stamped_headers": "a call carries headers, and no stamps: revoke it by its id",
}

REFUSED_OF_INSPECT = {
    "clock": "workers have no common clock: events and records carry their times",
    "hello": _NO_BROADCAST,
    "memsample": "stats() has the memory of each process",
    "memdump": "stats() has the memory of each process",
    "objgraph": "look into a process with a profiler of memory",
}


class Control(control.Control):
    """Looks into live workers and tells them what to do, under Celery's names."""

    def discard_all(self) -> int | None:
        """Do as `purge`."""
        return self.purge()

    def inspect(
        self, destination: Iterable[str] | None = None, timeout: float | None = None
    ) -> Inspect:
        """Return an `Inspect` for all or some live workers."""
        return Inspect(self, destination=destination, timeout=timeout)

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise AttributeError(f"app.control has no {name}: {REFUSED[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class Inspect(control.Inspect):
    """Asks workers about their state; a time of what is scheduled is text, as in Celery."""

    def scheduled(self, safe: bool | None = None) -> dict[str, Any] | None:
        """The first delayed tasks of its queues, where the broker shows them."""
        found = super().scheduled()
        return found and {host: with_times(each) for host, each in found.items()}

    def active(self, safe: bool | None = None) -> dict[str, Any] | None:
        """The tasks that run."""
        return super().active()

    def reserved(self, safe: bool | None = None) -> dict[str, Any] | None:
        """The received tasks that wait for a free slot."""
        return super().reserved()

    def conf(self, with_defaults: bool = False) -> dict[str, Any] | None:
        """Its settings, with the secrets in URLs masked."""
        return super().conf()

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED_OF_INSPECT:
            raise AttributeError(f"inspect() has no {name}: {REFUSED_OF_INSPECT[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def with_times(scheduled: Any) -> Any:
    """Return what a worker has scheduled, with each time as text."""
    if not isinstance(scheduled, list):  # an error's text
        return scheduled
    return [{**each, "eta": _text(each.get("eta"))} for each in scheduled]  # pyright: ignore


def _text(eta: Any) -> Any:
    return datetime.fromtimestamp(eta, UTC).isoformat() if isinstance(eta, int | float) else eta
