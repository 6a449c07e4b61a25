"""A task queue on the clouds' own queues."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudq.app import CloudQ
    from cloudq.canvas.nodes import Node, Signature, chain, chord, group
    from cloudq.canvas.results import GroupResult, ResultSet
    from cloudq.errors import (
        BackendError,
        BrokerError,
        ChordError,
        CloudQError,
        ConfigurationError,
        DecodeError,
        EncodeError,
        Ignore,
        InvalidArguments,
        MaxRetriesExceeded,
        MessageTooLarge,
        PartlyStarted,
        PublishError,
        Reject,
        ResultTimeout,
        Retry,
        ServiceError,
        SoftTimeLimitExceeded,
        TaskFailure,
        TaskRevoked,
        TimeLimitExceeded,
        UnknownTask,
        WorkerLost,
    )
    from cloudq.middleware import Call, Context, Middleware, Request
    from cloudq.record import State
    from cloudq.result import AsyncResult, EagerResult, wait_for
    from cloudq.schedules.values import at, crontab, every, solar
    from cloudq.shared import shared_task
    from cloudq.task import Prepared, Task
    from cloudq.tasklog import get_task_logger

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "BackendError",
    "BrokerError",
    "Call",
    "ChordError",
    "CloudQ",
    "CloudQError",
    "ConfigurationError",
    "Context",
    "DecodeError",
    "EagerResult",
    "EncodeError",
    "GroupResult",
    "Ignore",
    "InvalidArguments",
    "MaxRetriesExceeded",
    "MessageTooLarge",
    "Middleware",
    "Node",
    "PartlyStarted",
    "Prepared",
    "PublishError",
    "Reject",
    "Request",
    "ResultSet",
    "ResultTimeout",
    "Retry",
    "ServiceError",
    "Signature",
    "SoftTimeLimitExceeded",
    "State",
    "Task",
    "TaskFailure",
    "TaskRevoked",
    "TimeLimitExceeded",
    "UnknownTask",
    "WorkerLost",
    "at",
    "chain",
    "chord",
    "crontab",
    "every",
    "get_task_logger",
    "group",
    "shared_task",
    "solar",
    "wait_for",
]

# Names are loaded when they are first used: a driver that needs only cloudq.driver, or a program
# that looks at errors, does not pay for pydantic and the settings (150 ms of CPU).
_HOMES = {
    "AsyncResult": "cloudq.result",
    "BackendError": "cloudq.errors",
    "BrokerError": "cloudq.errors",
    "Call": "cloudq.middleware",
    "ChordError": "cloudq.errors",
    "CloudQ": "cloudq.app",
    "CloudQError": "cloudq.errors",
    "ConfigurationError": "cloudq.errors",
    "Context": "cloudq.middleware",
    "DecodeError": "cloudq.errors",
    "EagerResult": "cloudq.result",
    "EncodeError": "cloudq.errors",
    "GroupResult": "cloudq.canvas.results",
    "Ignore": "cloudq.errors",
    "InvalidArguments": "cloudq.errors",
    "MaxRetriesExceeded": "cloudq.errors",
    "MessageTooLarge": "cloudq.errors",
    "Middleware": "cloudq.middleware",
    "PartlyStarted": "cloudq.errors",
    "Node": "cloudq.canvas.nodes",
    "Prepared": "cloudq.task",
    "PublishError": "cloudq.errors",
    "Reject": "cloudq.errors",
    "Request": "cloudq.middleware",
    "ResultSet": "cloudq.canvas.results",
    "ResultTimeout": "cloudq.errors",
    "Retry": "cloudq.errors",
    "ServiceError": "cloudq.errors",
    "Signature": "cloudq.canvas.nodes",
    "SoftTimeLimitExceeded": "cloudq.errors",
    "State": "cloudq.record",
    "Task": "cloudq.task",
    "TaskFailure": "cloudq.errors",
    "TaskRevoked": "cloudq.errors",
    "TimeLimitExceeded": "cloudq.errors",
    "UnknownTask": "cloudq.errors",
    "WorkerLost": "cloudq.errors",
    "at": "cloudq.schedules.values",
    "chain": "cloudq.canvas.nodes",
    "chord": "cloudq.canvas.nodes",
    "crontab": "cloudq.schedules.values",
    "every": "cloudq.schedules.values",
    "get_task_logger": "cloudq.tasklog",
    "group": "cloudq.canvas.nodes",
    "shared_task": "cloudq.shared",
    "solar": "cloudq.schedules.values",
    "wait_for": "cloudq.result",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cloudq' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
