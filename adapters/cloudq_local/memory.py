"""The in-process broker and backend: `memory://name`, shared by all who open that name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, Generic, TypeVar

from cloudq.driver import Address
from cloudq.driver.forks import renew_after_fork
from cloudq_local.memory_backend import MemoryBackend, MemoryItems
from cloudq_local.memory_broker import MemoryBroker, MemoryQueues
from cloudq_local.options import check_options

S = TypeVar("S")


class _Shared(Generic[S]):
    """Shared states by name: created for the first user, deleted when the last one leaves."""

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._lock = Lock()
        self._states: dict[str, tuple[S, int]] = {}
        renew_after_fork(self, _Shared[Any]._in_child)

    def _in_child(self) -> None:
        self._lock = Lock()

    def join(self, name: str) -> S:
        with self._lock:
            state, members = self._states[name] if name in self._states else (self._make(), 0)
            self._states[name] = state, members + 1
            return state

    def leave(self, name: str) -> None:
        with self._lock:
            state, members = self._states.pop(name)
            if members > 1:
                self._states[name] = state, members - 1


# A name means the same state to every driver of the process, so it has to live here.
_QUEUES = _Shared(MemoryQueues)
_ITEMS = _Shared(MemoryItems)


def open_broker(address: Address) -> MemoryBroker:
    """Open the broker of that name; what it holds is gone when its last driver is closed."""
    check_options(address, ())
    name = f"{address.host}/{address.path}"
    return MemoryBroker(_QUEUES.join(name), on_close=partial(_QUEUES.leave, name))


def open_backend(address: Address) -> MemoryBackend:
    """Open the backend of that name; what it holds is gone when its last driver is closed."""
    check_options(address, ())
    name = f"{address.host}/{address.path}"
    return MemoryBackend(_ITEMS.join(name), on_close=partial(_ITEMS.leave, name))
