"""Tasks without an app of their own, and which app they belong to: Celery's `shared_task`.

This is the one place with state of the process: the apps there are, and the current one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, cast, overload
from weakref import WeakSet, ref

from cloudq.driver.forks import renew_after_fork
from cloudq.errors import ConfigurationError
from cloudq.tasks.task import Task
from cloudq.tasks.task_app import TaskApp

if TYPE_CHECKING:
    from cloudq.app.registration import BoundDecorator, Decorator
    from cloudq.tasks.options import TaskOptions

P = ParamSpec("P")
R = TypeVar("R")

Definition = Callable[[TaskApp], Task[..., Any]]
"""TaskApp one shared task with an app, and gives the task there."""


class Apps:
    """The apps of this process, and the tasks that belong to all of them."""

    def __init__(self) -> None:
        self._renew()
        self._all: WeakSet[TaskApp] = WeakSet()
        self._definitions: list[Definition] = []
        self.latest: ref[TaskApp] | None = None
        """The app that was made last, of those that are to be current."""
        self._default: TaskApp | None = None
        self._here = threading.local()
        renew_after_fork(self, Apps._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def add(self, app: TaskApp) -> None:
        """An app was made: it gets every shared task, and is current until told otherwise."""
        with self._lock:
            for definition in self._definitions:
                definition(app)
            self._all.add(app)
            self.latest = ref(app)

    def define(self, definition: Definition) -> None:
        """Give a shared task to every app, also those to come."""
        with self._lock:
            self._definitions.append(definition)
            for app in list(self._all):
                definition(app)

    def current(self) -> TaskApp:
        """The app of this thread, else the default one, else the one made last.

        Raises `ConfigurationError` where there is none.
        """
        app = getattr(self._here, "app", None) or self._default
        if app is None and self.latest is not None:
            app = self.latest()
        if app is None:
            raise ConfigurationError(
                "there is no app yet: import the module with CloudQ(...) before a shared task is "
                "used (in Django, in the project's __init__.py)"
            )
        return app

    def has_current(self) -> bool:
        """Say if there is an app."""
        try:
            return bool(self.current())
        except ConfigurationError:
            return False

    def set_current(self, app: TaskApp | None) -> None:
        self._here.app = app

    def set_default(self, app: TaskApp | None) -> None:
        self._default = app


APPS = Apps()


class SharedTask:
    """Stands for the task of this name in the current app, whichever that is when it is used."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        vars(self).update(
            _function=function,
            _options=options,
            _tasks={},
            __doc__=function.__doc__,
            __wrapped__=function,
            __module__=function.__module__,
            __name__=getattr(function, "__name__", None) or repr(function),
            __qualname__=getattr(function, "__qualname__", None) or repr(function),
        )

    def _task(self) -> Task[..., Any]:
        # Registering again gives the task that is there: an app may be older than the process's
        # memory of it.
        return self._define(APPS.current())

    def _define(self, app: TaskApp) -> Task[..., Any]:
        found: dict[int, Any] = vars(self)["_tasks"]
        key = id(app)
        known = found.get(key)
        if known is not None and known[0]() is app:
            return known[1]
        task = cast("Task[..., Any]", app.task(**self._options_for(app))(self._function))
        found[key] = (ref(app), task)
        return task

    def _options_for(self, app: TaskApp) -> dict[str, Any]:
        """Return the options with which an app makes its task."""
        return self._options

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        return type(self._task()) if APPS.has_current() else Task

    def __eq__(self, other: object) -> bool:
        return self is other or (APPS.has_current() and self._task() is other)

    __hash__ = object.__hash__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._task()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._task(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._task(), name)

    def __repr__(self) -> str:
        return f"<shared task {self._function.__module__}.{self._function.__qualname__}>"


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task of every app of the process: for libraries and Django apps.

    `@shared_task` or `@shared_task(bind=True, ...)`, with the options of `app.task`. What it gives
    acts as the current app's task: that of `app.set_current()` in this thread, else that of
    `app.set_default()`, else the app that was made last.
    """

    decorate = sharing(SharedTask, options)
    return decorate if function is None else decorate(function)


def sharing(kind: type[SharedTask], options: dict[str, Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return what makes a function a task of every app."""

    def decorate(function: Callable[..., Any]) -> Any:
        shared = kind(function, options)
        APPS.define(shared._define)  # pyright: ignore[reportPrivateUsage]
        return shared

    return decorate
