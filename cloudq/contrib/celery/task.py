"""The base class of a Celery project's tasks, and `shared_task` with Celery's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from cloudq.app import shared_task as shared
from cloudq.contrib.celery.options_table import CALL_OPTIONS, TASK_OPTIONS
from cloudq.results.result import AsyncResult
from cloudq.tasks import task
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.options import TaskOptions
from cloudq.tasks.signature import Node, Signature

P = ParamSpec("P")
R = TypeVar("R")


class Task(task.Task[P, R]):
    """A task that takes Celery's call options: each is carried over, ignored or refused."""

    def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send a call with options. Raises `ConfigurationError` for a refused one."""
        warned: set[str] = vars(self._app).setdefault("warned", set())
        made = call_options(options, of=f"{self.name}.apply_async", warned=warned)
        return super().apply_async(() if args is None else args, kwargs, **made)

    def signature(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature[R]:
        """Make a signature with options. Raises `ConfigurationError` for a refused one."""
        warned: set[str] = vars(self._app).setdefault("warned", set())
        made = call_options(options, of=f"{self.name}.signature", warned=warned)
        return super().signature(() if args is None else args, kwargs, immutable=immutable, **made)

    subtask = signature


def translate(node: Node[Any], warned: set[str]) -> None:
    """Translate the call options at every place of a workflow. Raises `ConfigurationError`.

    Members of a generator that is read as it is sent keep theirs.
    """
    waiting, seen = [node], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Signature) and each.options:
            each.options = call_options(each.options, of=each.task, warned=warned)
        waiting += [*each.peek(), *each.links, *each.link_errors]


def task_options(options: Mapping[str, Any], *, of: str, warned: set[str]) -> dict[str, Any]:
    """Translate the options of a task to cloudq's. Raises `ConfigurationError`."""
    known = TaskOptions.__annotations__
    return TASK_OPTIONS.apply(options, of=of, ours=known, warned=warned)


def call_options(options: Mapping[str, Any], *, of: str, warned: set[str]) -> dict[str, Any]:
    """Translate a call's options to cloudq's, without None. Raises `ConfigurationError`."""
    given = {name: value for name, value in options.items() if value is not None}
    # Callbacks are parameters of their own where calls take them.
    ours = {*CallOptions.__annotations__, "link", "link_error"}
    return CALL_OPTIONS.apply(given, of=of, ours=ours, warned=warned)


@overload
def shared_task(function: Callable[P, R], /) -> task.Task[P, R]: ...
@overload
def shared_task(**options: Any) -> Callable[[Callable[..., R]], task.Task[..., R]]: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task of every app; see `cloudq.shared_task`."""
    if function is not None:
        return shared.shared_task(function)
    made: Any = shared.shared_task
    return made(**task_options(options, of="@shared_task", warned=set()))
