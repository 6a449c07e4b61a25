"""Every exception of cloudq: one root, one class for each reaction a caller can have."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudq.text import masked

_PYDANTIC = (
    (r"^Input should be a valid integer(, got .*)?$", "it must be a whole number"),
    (r"^Input should be a valid number$", "it must be a number"),
    (r"^Input should be a finite number$", "it must be a number with an end"),
    (r"^Input should be a valid boolean(, .*)?$", "it must be true or false"),
    (r"^Input should be a valid string$", "it must be a text"),
    (r"^Input should be greater than or equal to (.+)$", r"it must be \1 or more"),
    (r"^Input should be greater than (.+)$", r"it must be above \1"),
    (r"^Input should be less than or equal to (.+)$", r"it must be \1 at most"),
    (r"^Input should be less than (.+)$", r"it must be below \1"),
    (r"^Input should be ", "it must be "),
    (r"^String should match pattern '\^\(([a-z|]+)\)\$'$", r"it must be one of \1"),
)

# Share of letters in place from which one name is taken for another mistyped: mial and mail.
_CLOSE = 0.75

DISTRIBUTION = "cloudq-tasks"
"""The name that cloudq is installed by. The import and the command are called `cloudq`."""


def install_hint(*extras: str) -> str:
    """The command that installs cloudq with these extras, for a message that advises it."""
    return f'pip install "{DISTRIBUTION}[{",".join(extras)}]"'


def near(name: str, known: Iterable[str]) -> str | None:
    """The one of these names that is probably meant by a mistyped one; None if none is close."""
    import difflib  # in the moment of an error alone

    return next(iter(difflib.get_close_matches(name, [*known], n=1, cutoff=_CLOSE)), None)


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """The question whether a near name is meant, for a message; `otherwise` if none is near."""
    close = near(name, known)
    return otherwise if close is None else f"did you mean {close}?"


def plainly(message: str) -> str:
    """A message of pydantic about a setting or an option, in the words of our own messages."""
    said = message.removeprefix("Value error, ").partition(", unable to parse ")[0]
    for theirs, ours in _PYDANTIC:
        said = re.sub(theirs, ours, said)
    return said


class CloudQError(Exception):
    """The root of every error that cloudq raises on purpose."""


class ConfigurationError(CloudQError):
    """A URL, a setting or a task's options cannot be; the message says what to do.

    Secrets in the message are masked: it may quote a URL or a setting.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*map(masked, args))


class ScheduleError(ConfigurationError, ValueError):
    """A schedule cannot be: a `crontab` of a minute 60, say."""


class UnknownTask(CloudQError, KeyError):
    """No task of that name is registered in this app."""

    __str__ = Exception.__str__  # a KeyError shows the repr of its text


class InvalidArguments(CloudQError, TypeError):
    """The arguments do not fit the task's signature or its type hints; nothing was sent."""


class EncodeError(CloudQError):
    """A value cannot be written to the wire; nothing was sent."""


class MessageTooLarge(EncodeError):
    """The encoded message is over the broker's limit; nothing was sent."""


class DecodeError(CloudQError):
    """A body is not a message this release can read.

    `fields` are those of the call, unchecked, where the body says whose it is and may be believed.
    """

    fields: Mapping[str, Any] | None = None


class ServiceError(CloudQError):
    """A broker or a backend refused or failed; `code` says how (see `cloudq.driver.Code`).

    Secrets in the message are masked: it quotes the service's URL, and what the service said.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(masked(message))
        self.code = code


class BrokerError(ServiceError):
    """The broker refused or failed."""


class BackendError(ServiceError):
    """The result backend refused or failed."""


class PayloadError(ServiceError):
    """The store of large payloads refused or failed."""


class PayloadGone(CloudQError):
    """A large payload is not in its store any more."""


class KeyServiceError(BackendError):
    """The key service refused or failed, so that nothing can be encrypted, or opened, for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One message of a publish that the broker did not take: its place in the call, and why."""

    index: int
    id: str
    code: str
    reason: str


class PublishError(BrokerError):
    """Some messages of one publish were not taken; `rejected` names them, all others are sent."""

    def __init__(self, message: str, *, code: str, rejected: Sequence[Rejected]) -> None:
        super().__init__(message, code=code)
        self.rejected = tuple(rejected)


class PartlyStarted(CloudQError):
    """A workflow was started in part: `sent` and `unsent` are task ids; the cause says why.

    What follows a header that was not sent whole fails with `ChordError`; what was sent runs.
    """

    def __init__(self, message: str, *, sent: Sequence[str], unsent: Sequence[str]) -> None:
        super().__init__(message)
        self.sent = tuple(sent)
        self.unsent = tuple(unsent)


class ResultTimeout(CloudQError, TimeoutError):
    """`AsyncResult.get` waited for `timeout` seconds and the task had not finished."""


class WaitInTask(CloudQError, RuntimeError):
    """A task waits for another one where that might never end; nothing was waited for."""


class TaskFailure(CloudQError):
    """A task failed elsewhere and its exception's class is not known here.

    `type` is the qualified name of the original class and `traceback` its text.
    """

    def __init__(self, message: str, *, type: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type = type
        self.traceback = traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.type}: {text}" if self.type else text


class ChordError(CloudQError):
    """A member of a chord's header failed, so its body was not run; the text names the member."""


class TaskRevoked(CloudQError):
    """The task was revoked or had expired, so it was not run."""


class WorkerLost(CloudQError):
    """The process that ran the task died, as many times as the app allows."""


class SoftTimeLimitExceeded(CloudQError):
    """Raised inside a task when its soft time limit has passed, so that it can clean up."""

    def __init__(self, message: str = "the task ran past its soft time limit") -> None:
        super().__init__(message)


class TimeLimitExceeded(CloudQError):
    """The task ran past its hard time limit and was stopped."""

    def __init__(self, message: str = "the task ran past its hard time limit") -> None:
        super().__init__(message)


class MaxRetriesExceeded(CloudQError):
    """`self.retry()` was called without an exception when no retries were left.

    `task_args` and `task_kwargs` are the arguments of the call.
    """

    def __init__(
        self,
        *args: object,
        task_args: Sequence[Any] = (),
        task_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = task_kwargs or {}


class Retry(CloudQError):
    """Raised by a task (through `self.retry`) to be run again later.

    `countdown` is the delay in seconds, None for the task's own back-off. `changes` are fields of
    the message that the next try has otherwise: its arguments, its queue. By place it takes
    Celery's `exc` and `when`, which is a countdown or a time.
    """

    is_eager = False

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        *,
        countdown: float | None = None,
        cause: BaseException | None = None,
        max_retries: int | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message or "retry")
        self.message = message
        self.when = when
        if countdown is None and isinstance(when, datetime):
            countdown = max(0.0, when.timestamp() - time.time())
        self.countdown = when if countdown is None and isinstance(when, int | float) else countdown
        self.cause = cause or exc
        self.max_retries = max_retries
        self.changes = changes or {}

    @property
    def exc(self) -> BaseException | None:
        """The cause, by Celery's name."""
        return self.cause

    def humanize(self) -> str:
        """Say when the next try is."""
        return f"in {self.when}s" if isinstance(self.when, int | float) else f"at {self.when}"


class Replaced(CloudQError):
    """Raised by a task (through `self.replace`) to have a workflow run in its place."""

    def __init__(self, node: Any) -> None:
        super().__init__(node)
        # A `Node`, whose module imports this one.
        self.node: Any = node

    def __str__(self) -> str:
        return f"replaced by {self.node!r}"


class Ignore(CloudQError):
    """Raised by a task to end without recording a result; the message is acked."""


class Reject(CloudQError):
    """Raised by a task to dead-letter its message, or with `requeue` to put it back.

    What is put back comes again after about a second, at most `max_deliveries` times in all.
    """

    def __init__(self, reason: object = "rejected by the task", requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __str__(self) -> str:
        return str(self.reason)
