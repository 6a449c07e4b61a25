"""The base class of a Celery project's tasks, and `shared_task` with Celery's options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from importlib import import_module
from inspect import getattr_static
from typing import Any, ParamSpec, TypeVar, overload

from cloudq.app import shared_task as shared
from cloudq.app.registration import apply_changes
from cloudq.contrib.celery.attributes import (
    NOT_SET,
    OPTIONS,
    Attribute,
    Attributes,
    check_class,
    check_settable,
    refuse,
)
from cloudq.contrib.celery.context import with_error
from cloudq.contrib.celery.current import the_app
from cloudq.contrib.celery.options_table import CALL_OPTIONS, TASK_OPTIONS
from cloudq.contrib.celery.retries import Retries
from cloudq.contrib.celery.values import read_headers
from cloudq.errors import ConfigurationError
from cloudq.results.eager import EagerResult
from cloudq.results.result import AsyncResult
from cloudq.tasks import task
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.call_arguments import call_arguments
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.hooks import HOOKS
from cloudq.tasks.options import TaskOptions
from cloudq.tasks.request import Request, current_request
from cloudq.tasks.signature import Node, Signature
from cloudq.tasks.unchecked import Unchecked

_EXCHANGE = ("exchange", "routing_key", "exchange_type")

REQUEST_FIELDS = frozenset(each.name for each in fields(Request))

P = ParamSpec("P")
R = TypeVar("R")


class Task(Attributes, Retries, task.Task[P, R]):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A task with Celery's attributes, and Celery's options of calls.

    Each option is carried over, ignored or refused. One that is set on a task takes effect; a
    refused one raises `ConfigurationError`. A task that is written as a class is an object of its
    own, which `app.register_task` makes a task.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if "policy" in vars(self):  # else it is not yet a task
            check_settable(name, self.name)
            if name in OPTIONS:
                self._change({name: value})
        super().__setattr__(name, value)
        self._noted(name)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in OPTIONS and "policy" in vars(self):
            self._change({name: value for name, value in vars(self).items() if name in OPTIONS})
        self._noted(name)

    def __getattr__(self, name: str) -> Any:
        refuse(name, type(self))

    def _change(self, options: Mapping[str, Any]) -> None:
        """Apply options that are set on the task itself. Raises `ConfigurationError`."""
        given = {name: value for name, value in vars(self).items() if name in OPTIONS}
        before = self.changed
        self.changed = self._translated({**given, **options})
        try:
            apply_changes(self)
        except ConfigurationError:
            self.changed = before
            raise
        if "typing" in options:
            self.arguments = arguments_of(self)

    def _noted(self, name: str) -> None:
        """Note whether calls have to look at what the task itself has."""
        if name in HOOKS:
            self.find_hooks()
        elif name == "run":
            self.wrapped = self._calls_itself()

    def _overrides(self, name: str) -> bool:
        """Say if the task's class, or the task itself, has a method of its own for Celery's."""
        return name in vars(self) or getattr(type(self), name) is not getattr(Task, name)

    def _calls_itself(self) -> bool:
        """Say if calls run `__call__` or a `run` of the task's own, and not the bare function.

        A task of three arguments may be an error callback, for which `__call__` makes them.
        """
        own = self._overrides("__call__") or "run" in vars(self)
        return own or self.arguments.takes(3)

    def _set_up(self, function: Callable[..., Any], **parts: Any) -> None:
        super()._set_up(function, **parts)
        if self.declared.get("pydantic"):
            self.arguments = PlainResult(self.name, function, bound=self.bind, everything=True)
        self.wrapped = self._calls_itself()
        self.on_bound(self._app)

    def _translated(self, options: Mapping[str, Any]) -> Any:
        warned: set[str] = vars(self._app).setdefault("warned", set())
        return task_options(without_none(options), of=f"task {self.name}", warned=warned)

    @classmethod
    def class_options(cls, names: Collection[str]) -> dict[str, Any]:
        """Return the options that the class has as attributes. Raises `ConfigurationError`."""
        check_class(cls)
        found = {
            name: value
            for name, value in super().class_options(OPTIONS & {*names, *OPTIONS}).items()
            if not isinstance(value, Attribute)
        }
        return task_options(without_none(found), of=f"class {cls.__name__}", warned=set())

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, also of a class that is no task yet.

        An error callback gets the failed call, its exception and its traceback.
        """
        given: Any = args
        if len(given) > 2 and type(given[0]) is dict and "_app" in vars(self):
            stored = not self.request.is_eager and not self.request.called_directly
            given = with_error(given, self._app.runtime, stored=stored)
        return self.run(*given, **kwargs)

    @property
    def app(self) -> Any:
        """The app that the task belongs to; of one that is not registered, the current app."""
        return vars(self).get("_app") or the_app()

    @property
    def request(self) -> Request:
        """The call that is running, with headers of the types that they were given."""
        found = super().request
        if found.called_directly and not found.id:
            none: Any = None
            return replace(found, id=none)
        return replace(found, headers=read_headers(found.headers)) if found.headers else found

    def __reduce__(self) -> Any:
        return task_named, (self.name,)

    def __copy__(self) -> Any:
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Do something when a task of this class is made for an app. Override it."""

    def push_request(self, **fields: Any) -> None:
        """Have `self.request` be a call with these fields, until `pop_request`: for tests."""
        given: dict[str, Any] = {"id": "", "called_directly": True, "task": self.name, **fields}
        known = {name: value for name, value in given.items() if name in REQUEST_FIELDS}
        pushed: list[Any] = vars(self).setdefault("_pushed", [])
        pushed.append(current_request.set(Request(**known)))

    def pop_request(self) -> None:
        """Take back the last `push_request`."""
        current_request.reset(vars(self)["_pushed"].pop())

    def shadow_name(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> str | None:
        """Return another name for a call in logs; None for the task's own. Override it."""
        return None

    def signature_from_request(
        self,
        request: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **options: Any,
    ) -> Signature[R]:
        """Make a signature of the running call, with these changes."""
        request = self.request if request is None else request
        given: dict[str, Any] = {"task_id": request.id, "queue": queue or request.queue}
        return self.signature(
            request.args if args is None else args,
            request.kwargs if kwargs is None else kwargs,
            **{**without_none({name: value or None for name, value in given.items()}), **options},
        )

    subtask_from_request = signature_from_request

    def _options_of_retry(self, options: Mapping[str, Any]) -> dict[str, Any]:
        warned: set[str] = vars(self._app).setdefault("warned", set())
        return call_options(options, of=f"{self.name}.retry", warned=warned)

    def _named(self, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Add the other name of a call, if its class gives one."""
        if self._overrides("shadow_name") and not options.get("shadow"):
            options["shadow"] = self.shadow_name(args, kwargs, options)
        return options

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send one call to the queue; through `apply_async` where the class has its own."""
        if self._overrides("apply_async") or self._overrides("shadow_name"):
            return self.apply_async(args, kwargs)
        return super().delay(*args, **kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: None = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send a call with options. Raises `ConfigurationError` for a refused one."""
        named = {"task_id": task_id, "producer": producer, "shadow": shadow}
        options = {**options, **named, "link": link, "link_error": link_error}
        warned: set[str] = vars(self._app).setdefault("warned", set())
        options = self._named(args, kwargs, options)
        throw = options.pop("throw", None)
        if throw is not None and self._app.runtime.conf.task_always_eager:
            return self.apply(args, kwargs, throw=throw, **options)
        made = call_options(options, of=f"{self.name}.apply_async", warned=warned)
        return super().apply_async(() if args is None else args, kwargs, **made)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run a call here. What it raises is raised with `throw`, or `task_eager_propagates`."""
        warned: set[str] = vars(self._app).setdefault("warned", set())
        options = self._named(args or (), kwargs or {}, options)
        made: Any = call_options(options, of=f"{self.name}.apply", warned=warned)
        return self.app.apply(
            self, self._merged(made), *call_arguments(args or (), kwargs), throw=throw
        )

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


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options of Celery's alone that are None, which stands for their default."""
    return {
        name: value
        for name, value in options.items()
        if value is not None or name in TaskOptions.__annotations__
    }


class PlainResult(Arguments):
    """Arguments of a task with `pydantic=True`, whose caller gets the value as it is stored."""

    def restore(self, value: Any) -> Any:
        """Return the value: of a model its dictionary."""
        return value

    def restore_each(self, values: Any) -> Any:
        """Return the values: of models their dictionaries."""
        return values


def arguments_of(task: task.Task[..., Any]) -> Arguments:
    """Make what checks the arguments of a task, by its options as they are now."""
    options = {**task.declared, **task.changed}
    checked = Arguments if options.get("typing", True) else Unchecked
    everything = bool(options.get("pydantic", False))
    return checked(task.name, task.function, bound=task.bind, everything=everything)


def is_task(given: object) -> bool:
    """Say if an object is a task of this layer."""
    return isinstance(given, Task)


def has_run(kind: type[Any]) -> bool:
    """Say if a class of tasks has a method `run` of its own, or inherits one."""
    return kind.run is not vars(task.Task)["run"]


def task_named(name: str) -> Any:
    """Return a task of the current app, for those that are pickled."""
    return the_app().tasks[name]


def run_of(kind: type[Any]) -> tuple[Callable[..., Any], bool]:
    """Return the function of a task that is written as a class, and whether it gets the task."""
    found = getattr_static(kind, "run")
    return kind.run, not isinstance(found, staticmethod | classmethod)


def own_keywords(options: dict[str, Any], base: type[Any]) -> dict[str, Any]:
    """Make a class of the keywords that are no options: they are attributes of the task.

    One that looks like a misspelled option stays, and is refused as an unknown one.
    """
    known = {*OPTIONS, *NOT_SET}
    own = {
        name: value
        for name, value in options.items()
        if name not in known and not get_close_matches(name, known, n=1, cutoff=0.8)
    }
    if not own:
        return {**options, "base": class_of(options["base"])} if options.get("base") else options
    kept = {name: value for name, value in options.items() if name not in own}
    base = class_of(kept.get("base") or base)
    kept["base"] = type(base.__name__, (base,), {"__module__": base.__module__, **own})
    return kept


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
    if "queue" in given:  # which is what they come to
        given = {name: value for name, value in given.items() if name not in _EXCHANGE}
    # Callbacks are parameters of their own where calls take them.
    ours = {*CallOptions.__annotations__, "link", "link_error"}
    return CALL_OPTIONS.apply(given, of=of, ours=ours, warned=warned)


@overload
def shared_task(function: Callable[P, R], /) -> task.Task[P, R]: ...
@overload
def shared_task(**options: Any) -> Callable[[Callable[..., R]], task.Task[..., R]]: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task of every app; see `cloudq.shared_task`."""
    decorate = shared.sharing(
        CelerySharedTask, task_options(options, of="@shared_task", warned=set())
    )
    return decorate if function is None else decorate(function)


class CelerySharedTask(shared.SharedTask):
    """A shared task whose own keywords apps without Celery's names have too."""

    def _options_for(self, app: Any) -> dict[str, Any]:
        options = super()._options_for(app)
        return options if hasattr(app, "strict_typing") else own_keywords(options, Task)


def class_of(given: type[Any] | str | None) -> type[Any]:
    """Return the class of an app's tasks, importing it if it is given by its dotted name."""
    if isinstance(given, str):
        home, _, name = given.replace(":", ".").rpartition(".")
        try:
            return getattr(import_module(home), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"{given!r} is no class of tasks: {error}") from error
    return given or Task
