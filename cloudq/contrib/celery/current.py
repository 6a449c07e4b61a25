"""Celery's names that use the current app: `current_app`, `current_task`, `AsyncResult(id)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from cloudq.app import CloudQ
from cloudq.app.shared_task import APPS
from cloudq.errors import ConfigurationError
from cloudq.results import groups, result
from cloudq.tasks.request import current_request
from cloudq.tasks.signature import Node, Signature, group, is_node


def the_app() -> CloudQ:
    """Return the current app. Raises `ConfigurationError` if there is none."""
    return cast("CloudQ", APPS.current())


def the_task() -> Any:
    """Return the running task, None outside of tasks."""
    request = current_request.get()
    return None if request is None else the_app().tasks.get(request.task)


class Current:
    """A proxy for the app or task that is current when it is used; false if there is none."""

    def __init__(self, what: str, find: Callable[[], Any]) -> None:
        self._what = what
        self._find = find

    def __getattr__(self, name: str) -> Any:
        found = self._find()
        if found is None:
            raise AttributeError(f"{self._what}.{name}: there is no {self._what} here")
        return getattr(found, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._find()(*args, **kwargs)

    def __bool__(self) -> bool:
        try:
            return self._find() is not None
        except ConfigurationError:
            return False

    def __eq__(self, other: object) -> bool:
        return self._find() is other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._what}: {self._find()!r}>"


def app_or_default(app: CloudQ | None = None) -> CloudQ:
    """Return the app that is given, or the current one."""
    return app or the_app()


def bugreport(app: CloudQ | None = None) -> str:
    """Return the versions and the settings that a report of a bug should have."""
    found: Any = app_or_default(app)
    return found.bugreport()


current_app = Current("current_app", the_app)
current_task = Current("current_task", the_task)


class _ById(type):
    """Makes `AsyncResult(id)` return the app's own result, and count as an instance of it."""

    def __call__(
        cls,
        id: str,
        backend: None = None,
        task_name: str | None = None,
        app: CloudQ | None = None,
        parent: Any = None,
    ) -> Any:
        made = (app or the_app()).AsyncResult(id)
        made.parent = parent
        return made

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, result.AsyncResult)


class AsyncResult(result.AsyncResult[Any], metaclass=_ById):
    """The result of a call by its id, in the current app or in `app`."""


class _OfGroup(type):
    """Makes the result of a group, and counts each result of a group as an instance."""

    def __call__(
        cls,
        id: Any = None,
        results: Sequence[Any] | None = None,
        parent: Any = None,
        **more: Any,
    ) -> groups.GroupResult[Any]:
        return groups.GroupResult(id, list(results or ()), parent=parent)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, groups.GroupResult)


class GroupResult(groups.GroupResult[Any], metaclass=_OfGroup):
    """The results of a group; `restore` finds a saved one."""

    @staticmethod
    def restore(  # pyright: ignore[reportIncompatibleMethodOverride] (the app is the last)
        id: str, backend: None = None, app: CloudQ | None = None
    ) -> groups.GroupResult[Any] | None:
        """Return the group saved under an id, None if there is none."""
        return (app or the_app()).restore_group(id)


def signature(
    varies: str | Mapping[str, Any] | Node[Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    app: CloudQ | None = None,
    **more: Any,
) -> Node[Any]:
    """A call by the task's name or from its dictionary, in the current app or in `app`."""
    if is_node(varies):
        return varies.clone()
    if isinstance(varies, Mapping):
        return (app or the_app()).signature(varies)
    immutable = bool(more.pop("immutable", False))
    given = {**(options or {}), **more}
    if app is None and not current_app:
        # Of no app yet: it has one when it is called, as a part of a workflow of an app.
        return Signature(varies, args, kwargs, given, immutable=immutable)
    return (app or the_app()).signature(varies, args, kwargs, immutable=immutable, **given)


def maybe_signature(
    varies: Mapping[str, Any] | Node[Any] | None, app: CloudQ | None = None
) -> Node[Any] | None:
    """Return a signature from a dictionary; a signature and None are returned as they are."""
    return varies if varies is None or is_node(varies) else signature(varies, app=app)


def chunks(task: Any, it: Any, n: int) -> group[Any]:
    """A group of calls over `n` items each; `task` is a task or a signature without arguments."""
    return _task(task).chunks(it, n)


def xmap(task: Any, it: Any) -> Node[Any]:
    """One call that runs a task on each item."""
    return _task(task).map(it)


def xstarmap(task: Any, it: Any) -> Node[Any]:
    """One call that runs a task on each item, a list of its arguments."""
    return _task(task).starmap(it)


def _task(given: Any) -> Any:
    call: Any = given  # not narrowed: the types of its arguments are of no use here
    if not isinstance(given, Node):
        return call
    name: str = getattr(call, "task", "")  # a chain has none
    app = call.app or the_app()
    if name not in app.tasks:
        raise ConfigurationError(f"{given!r} is no call of a task that is registered")
    return app.tasks[name]
