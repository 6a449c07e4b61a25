"""The long-lived consumer: a supervisor that talks to the broker, processes that run tasks."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudq.worker.options import WorkerOptions
    from cloudq.worker.supervisor import Worker

__all__ = ["Worker", "WorkerOptions"]

# Loaded at their first use: the processes that run tasks do not import the supervisor's parts.
_HOMES = {"Worker": "cloudq.worker.supervisor", "WorkerOptions": "cloudq.worker.options"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cloudq.worker' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
