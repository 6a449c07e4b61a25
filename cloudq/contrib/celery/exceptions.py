"""cloudq's exceptions under the names of `celery.exceptions`."""

from __future__ import annotations

from cloudq.errors import (
    BackendError,
    ChordError,
    Ignore,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
)
from cloudq.errors import BackendError as BackendGetMetaError
from cloudq.errors import BackendError as BackendStoreError
from cloudq.errors import BrokerError as OperationalError
from cloudq.errors import CloudQError as CeleryError
from cloudq.errors import CloudQError as TaskError
from cloudq.errors import ConfigurationError as AlreadyRegistered
from cloudq.errors import ConfigurationError as ImproperlyConfigured
from cloudq.errors import DecodeError as IncompleteStream
from cloudq.errors import DecodeError as SecurityError
from cloudq.errors import InvalidArguments as InvalidTaskError
from cloudq.errors import MaxRetriesExceeded as MaxRetriesExceededError
from cloudq.errors import ResultTimeout as TimeoutError
from cloudq.errors import TaskRevoked as TaskRevokedError
from cloudq.errors import TaskRevoked as Terminated
from cloudq.errors import UnknownTask as NotRegistered
from cloudq.errors import WorkerLost as WorkerLostError

__all__ = [
    "AlreadyRegistered",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CeleryError",
    "ChordError",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "Reject",
    "Retry",
    "SecurityError",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
]


class AlwaysEagerIgnored(UserWarning):
    """Nothing warns with it here: `send_task` sends whatever task_always_eager is."""


class CeleryWarning(UserWarning):
    """Nothing warns with it here: see `IgnoredByCloudQ`."""


class DuplicateNodenameWarning(CeleryWarning):
    """Nothing warns with it here: of two workers of one name `cloudq status` shows one."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Nothing warns with it here: two tasks of one name are an error."""


class FixupWarning(CeleryWarning):
    """Nothing warns with it here."""


class SecurityWarning(CeleryWarning):
    """Nothing warns with it here."""


class CDeprecationWarning(DeprecationWarning):
    """Nothing warns with it here."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Nothing warns with it here."""


# Celery's exceptions without a counterpart, and why.
REFUSED = {
    "TaskPredicate": "Retry, Ignore and Reject are caught by their own names",
    "QueueNotFound": "catch OperationalError: the cloud says which queue there is not",
    "CeleryCommandException": "a command of `cloudq celery` ends with its exit code",
    "reraise": "raise error.with_traceback(...)",
    "NotConfigured": "an app without settings takes those of the environment",
    "WorkerShutdown": "a worker is stopped with app.control.shutdown() or SIGTERM",
    "WorkerTerminate": "a worker is stopped with app.control.shutdown() or SIGTERM",
}


def __getattr__(name: str) -> object:
    if name in REFUSED:
        raise ImportError(f"cloudq has no {name}: {REFUSED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
