"""A task queue on the clouds' own queues."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudq.app import CloudQ
    from cloudq.errors import (
        BackendError,
        BrokerError,
        CloudQError,
        ConfigurationError,
        DecodeError,
        EncodeError,
        Ignore,
        InvalidArguments,
        MaxRetriesExceeded,
        MessageTooLarge,
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
    from cloudq.task import Prepared, Task

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "BackendError",
    "BrokerError",
    "Call",
    "CloudQ",
    "CloudQError",
    "ConfigurationError",
    "Context",
    "DecodeError",
    "EagerResult",
    "EncodeError",
    "Ignore",
    "InvalidArguments",
    "MaxRetriesExceeded",
    "MessageTooLarge",
    "Middleware",
    "Prepared",
    "PublishError",
    "Reject",
    "Request",
    "ResultTimeout",
    "Retry",
    "ServiceError",
    "SoftTimeLimitExceeded",
    "State",
    "Task",
    "TaskFailure",
    "TaskRevoked",
    "TimeLimitExceeded",
    "UnknownTask",
    "WorkerLost",
    "wait_for",
]

# Names are loaded when they are first used: a driver that needs only cloudq.driver, or a program
# that looks at errors, does not pay for pydantic and the settings (150 ms of CPU).
_HOMES = {
    "AsyncResult": "cloudq.result",
    "BackendError": "cloudq.errors",
    "BrokerError": "cloudq.errors",
    "Call": "cloudq.middleware",
    "CloudQ": "cloudq.app",
    "CloudQError": "cloudq.errors",
    "ConfigurationError": "cloudq.errors",
    "Context": "cloudq.middleware",
    "DecodeError": "cloudq.errors",
    "EagerResult": "cloudq.result",
    "EncodeError": "cloudq.errors",
    "Ignore": "cloudq.errors",
    "InvalidArguments": "cloudq.errors",
    "MaxRetriesExceeded": "cloudq.errors",
    "MessageTooLarge": "cloudq.errors",
    "Middleware": "cloudq.middleware",
    "Prepared": "cloudq.task",
    "PublishError": "cloudq.errors",
    "Reject": "cloudq.errors",
    "Request": "cloudq.middleware",
    "ResultTimeout": "cloudq.errors",
    "Retry": "cloudq.errors",
    "ServiceError": "cloudq.errors",
    "SoftTimeLimitExceeded": "cloudq.errors",
    "State": "cloudq.record",
    "Task": "cloudq.task",
    "TaskFailure": "cloudq.errors",
    "TaskRevoked": "cloudq.errors",
    "TimeLimitExceeded": "cloudq.errors",
    "UnknownTask": "cloudq.errors",
    "WorkerLost": "cloudq.errors",
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
