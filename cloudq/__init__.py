"""A task queue on the clouds' own queues."""

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
