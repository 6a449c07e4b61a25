"""A task queue on the clouds' own queues."""

from importlib import import_module

# The name is what type checkers know it by; to import it would take ten times as long as the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloudq.app import CloudQ
    from cloudq.app.shared_task import shared_task
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
        PayloadError,
        PayloadGone,
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
        WaitInTask,
        WorkerLost,
    )
    from cloudq.messages.files import File
    from cloudq.monitoring.task_logger import get_task_logger
    from cloudq.results.eager import EagerResult
    from cloudq.results.groups import GroupResult, ResultSet
    from cloudq.results.record import State
    from cloudq.results.result import AsyncResult, wait_for
    from cloudq.results.waiting import allow_join_result
    from cloudq.schedules.when import at, crontab, every, solar
    from cloudq.tasks.request import Call, Context, Middleware, Request, current_request
    from cloudq.tasks.signature import Node, Signature, chain, chord, group
    from cloudq.tasks.task import Prepared, Task

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
    "File",
    "GroupResult",
    "Ignore",
    "InvalidArguments",
    "MaxRetriesExceeded",
    "MessageTooLarge",
    "Middleware",
    "Node",
    "PartlyStarted",
    "PayloadError",
    "PayloadGone",
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
    "WaitInTask",
    "WorkerLost",
    "allow_join_result",
    "at",
    "chain",
    "chord",
    "crontab",
    "current_request",
    "every",
    "get_task_logger",
    "group",
    "shared_task",
    "solar",
    "wait_for",
]

# Names are loaded when they are first used: a driver that needs only cloudq.driver, or a program
# that looks at errors, does not pay for the settings and all that an app needs.
_HOMES = {
    "AsyncResult": "cloudq.results.result",
    "BackendError": "cloudq.errors",
    "BrokerError": "cloudq.errors",
    "Call": "cloudq.tasks.request",
    "ChordError": "cloudq.errors",
    "CloudQ": "cloudq.app",
    "CloudQError": "cloudq.errors",
    "ConfigurationError": "cloudq.errors",
    "Context": "cloudq.tasks.request",
    "DecodeError": "cloudq.errors",
    "EagerResult": "cloudq.results.eager",
    "EncodeError": "cloudq.errors",
    "File": "cloudq.messages.files",
    "GroupResult": "cloudq.results.groups",
    "Ignore": "cloudq.errors",
    "InvalidArguments": "cloudq.errors",
    "MaxRetriesExceeded": "cloudq.errors",
    "MessageTooLarge": "cloudq.errors",
    "Middleware": "cloudq.tasks.request",
    "PartlyStarted": "cloudq.errors",
    "PayloadError": "cloudq.errors",
    "PayloadGone": "cloudq.errors",
    "Node": "cloudq.tasks.signature",
    "Prepared": "cloudq.tasks.task",
    "PublishError": "cloudq.errors",
    "Reject": "cloudq.errors",
    "Request": "cloudq.tasks.request",
    "ResultSet": "cloudq.results.groups",
    "ResultTimeout": "cloudq.errors",
    "Retry": "cloudq.errors",
    "ServiceError": "cloudq.errors",
    "Signature": "cloudq.tasks.signature",
    "SoftTimeLimitExceeded": "cloudq.errors",
    "State": "cloudq.results.record",
    "Task": "cloudq.tasks.task",
    "TaskFailure": "cloudq.errors",
    "TaskRevoked": "cloudq.errors",
    "TimeLimitExceeded": "cloudq.errors",
    "UnknownTask": "cloudq.errors",
    "WaitInTask": "cloudq.errors",
    "WorkerLost": "cloudq.errors",
    "allow_join_result": "cloudq.results.waiting",
    "at": "cloudq.schedules.when",
    "chain": "cloudq.tasks.signature",
    "chord": "cloudq.tasks.signature",
    "crontab": "cloudq.schedules.when",
    "current_request": "cloudq.tasks.request",
    "every": "cloudq.schedules.when",
    "get_task_logger": "cloudq.monitoring.task_logger",
    "group": "cloudq.tasks.signature",
    "shared_task": "cloudq.app.shared_task",
    "solar": "cloudq.schedules.when",
    "wait_for": "cloudq.results.result",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cloudq' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
