"""A task's call: the request that the task sees, and the middleware around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import field
from datetime import datetime
from typing import Any

from cloudq.driver.immutable import immutable, shown_repr
from cloudq.messages.message import TaskMessage
from cloudq.messages.redaction import PLAIN, Secrecy
from cloudq.tasks.checkpoints import Progress


def _nothing() -> list[Any]:
    return []  # faster than `list[Any]` as a factory, which matters once a call


def _never(error: BaseException) -> bool:
    return False


@immutable
class Request:
    """The call of a running task, as the task sees it; with Celery's names where it has them."""

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    queue: str = ""
    retries: int = 0
    attempts: int = 1  # deliveries of this very message, this one included
    rerun: bool = False  # another process may have run it: it died, or was killed for another task
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    time_limit: float | None = None
    soft_time_limit: float | None = None
    hostname: str = ""
    is_eager: bool = False
    depth: int = 0  # how many tasks deep the call was made
    slot: str | None = None  # its place in the header of a chord
    shadow: str | None = None  # another name for it in logs
    called_directly: bool = False  # as a function: there is no message, and no id
    fence: int = 0  # the token of this delivery; a later one has a larger one
    progress: Progress | None = field(default=None, compare=False)  # where time is short
    children: list[Any] = field(default_factory=_nothing, compare=False)  # what it has started
    asked: list[BaseException] = field(default_factory=_nothing, repr=False)
    call: str | None = None  # tells it from other calls of its id, if the caller gave the id
    message: TaskMessage | None = field(default=None, compare=False, repr=False)
    secrecy: Secrecy | None = field(default=None, compare=False, repr=False)  # of its task

    def __repr__(self) -> str:
        args, kwargs = self._shown
        return shown_repr(self, {"args": args, "kwargs": kwargs})

    @property
    def _shown(self) -> tuple[list[Any], dict[str, Any]]:
        return (self.secrecy or PLAIN).shown(self.args, self.kwargs)

    @property
    def kept_as(self) -> str:
        """The name under which the steps and the state of this call are kept."""
        return self.id if self.call is None else f"{self.id}#{self.call}"

    # ---- Celery's other names

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """The hard and the soft limit, in this order, as in Celery's messages."""
        return self.time_limit, self.soft_time_limit

    @property
    def delivery_info(self) -> Mapping[str, Any]:
        """The queue of the message in Celery's form; the name of an exchange is empty."""
        return {
            "exchange": "",
            "routing_key": self.queue,
            "redelivered": self.rerun or self.attempts > 1,
            "is_eager": self.is_eager,
        }

    @property
    def correlation_id(self) -> str:
        """The id of the call, as in Celery."""
        return self.id

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field or a header of the call, or the default if it has none of this name."""
        return getattr(self, name, default)

    def __getattr__(self, name: str) -> Any:
        # While it is copied it has no headers yet, and to look for them would look for ever.
        found = None if name == "headers" or name[:2] == "__" else self.headers.get(name)
        if found is None:
            raise AttributeError(f"a request has no {name!r}, and no header of this name")
        return found

    @property
    def callbacks(self) -> list[Any] | None:
        """The signatures that are called with its value, as dictionaries; None for none."""
        return (self.message and list(self.message.link)) or None

    @property
    def errbacks(self) -> list[Any] | None:
        """The signatures that are called if it fails, as dictionaries; None for none."""
        return (self.message and list(self.message.link_error)) or None

    @property
    def chain(self) -> list[Any] | None:
        """The signatures that follow it, the next one last, as dictionaries; None for none."""
        return (self.message and list(reversed(self.message.chain))) or None

    @property
    def chord(self) -> str | None:
        """The id of the chord that it is a member of; None for none."""
        return None if self.slot is None else self.slot.partition("@")[2]

    @property
    def group_index(self) -> int | None:
        """Its place among the members of its chord; None for none."""
        return None if self.slot is None else int(self.slot.partition("@")[0])

    @property
    def taskset(self) -> str | None:
        """The id of its group."""
        return self.group

    @property
    def ignore_result(self) -> bool:
        """True if its caller has asked for its result to be ignored."""
        return bool(self.message and self.message.ignore_result)

    @property
    def replaced_task_nesting(self) -> int:
        """The number of times that a task of its id was replaced."""
        return self.message.replaced if self.message else 0

    @property
    def properties(self) -> Mapping[str, Any]:
        """The properties that a message of Celery's would have."""
        return {
            "correlation_id": self.id,
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_info": self.delivery_info,
            "reply_to": None,
            "priority": None,
        }

    @property
    def argsrepr(self) -> str:
        """The positional arguments as text, without secrets."""
        return repr(tuple(self._shown[0]))

    @property
    def kwargsrepr(self) -> str:
        """The keyword arguments as text, without secrets."""
        return repr(self._shown[1])

    @property
    def task_id(self) -> str:
        """The id of the call, as receivers of signals know it in Celery."""
        return self.id

    @property
    def task_name(self) -> str:
        """The name of the task, as receivers of signals know it in Celery."""
        return self.task

    @property
    def name(self) -> str:
        """The name of the task, as receivers of signals know it in Celery."""
        return self.task

    @property
    def lang(self) -> str:
        """The language of tasks."""
        return "py"

    @property
    def origin(self) -> None:
        """None: a message does not tell which process has sent it."""
        return None

    @property
    def stamps(self) -> Mapping[str, Any]:
        """Empty: there are no stamps; a call carries headers."""
        return {}

    @property
    def stamped_headers(self) -> None:
        """None: there are no stamps; a call carries headers."""
        return None

    @property
    def logfile(self) -> None:
        """None: the library configures no logging."""
        return None

    @property
    def loglevel(self) -> None:
        """None: the library configures no logging."""
        return None

    @property
    def reply_to(self) -> None:
        """None: results go to the backend, never to a queue of the caller's."""
        return None

    @property
    def utc(self) -> bool:
        """True: times on the wire are epoch seconds."""
        return True


@immutable
class Context:
    """One call about to be made, as middleware gets it."""

    request: Request
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    retried: Callable[[BaseException], bool] = field(default=_never, repr=False)
    """Tells whether an error makes the call be tried again; false for `Ignore` and `Reject`."""

    def __repr__(self) -> str:
        args, kwargs = (self.request.secrecy or PLAIN).shown(self.args, self.kwargs)
        return shown_repr(self, {"args": args, "kwargs": kwargs})


Call = Callable[[Context], object]
"""Runs a task and returns its value. An `async def` task has been awaited when it returns."""

Middleware = Callable[[Call], Call]
"""Takes the next call, returns a call around it.

    def timed(call: Call) -> Call:
        def run(context: Context) -> object:
            start = monotonic()
            try:
                return call(context)
            finally:
                log.info("ran %s in %.3fs", context.request.task, monotonic() - start)
        return run
"""

current_request: ContextVar[Request | None] = ContextVar("current_request", default=None)
"""The request of the task that runs in this thread or coroutine; `get()` is None outside tasks."""


def onion(middleware: Sequence[Middleware], call: Call) -> Call:
    """Wrap a call: the first middleware is the outermost layer."""
    for layer in reversed(middleware):
        call = layer(call)
    return call
