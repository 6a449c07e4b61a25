"""The call of a task as a function of its context, and the onion of functions around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a running task may know of its own call. Celery's names where it has them."""

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    queue: str = ""
    retries: int = 0
    attempts: int = 1  # deliveries of this very message, this one included
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
    children: list[Any] = field(default_factory=list[Any], compare=False)  # what it has started


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One call about to be made: what a middleware gets."""

    request: Request
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


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
"""The request of the task that runs in this thread or coroutine, None outside of tasks."""


def onion(middleware: Sequence[Middleware], call: Call) -> Call:
    """Wrap a call: the first middleware is the outermost layer."""
    return reduce(lambda inner, layer: layer(inner), reversed(middleware), call)
