"""The base class of a Celery project's tasks, and `shared_task` with Celery's options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import getattr_static
from typing import Any, ParamSpec, TypeVar, overload

from cloudq.app import shared_task as shared
from cloudq.app.registration import apply_changes
from cloudq.contrib.celery.arguments import PlainResult, arguments_of
from cloudq.contrib.celery.attributes import (
    NOT_SET,
    OPTIONS,
    AppOf,
    Attribute,
    Attributes,
    check_class,
    check_free,
    check_settable,
    refuse,
)
from cloudq.contrib.celery.context import with_error
from cloudq.contrib.celery.current import the_app
from cloudq.contrib.celery.own_sending import celerys, is_own, seen, sends_itself
from cloudq.contrib.celery.own_states import OwnStates
from cloudq.contrib.celery.requests import REQUEST_FIELDS, view_of
from cloudq.contrib.celery.results import check_id
from cloudq.contrib.celery.retries import Retries
from cloudq.contrib.celery.signatures import Chunks
from cloudq.contrib.celery.translation import call_options, task_options, without_none
from cloudq.errors import ConfigurationError
from cloudq.results.eager import EagerResult
from cloudq.results.result import AsyncResult
from cloudq.tasks import task
from cloudq.tasks.call_arguments import call_arguments
from cloudq.tasks.hooks import HOOKS
from cloudq.tasks.request import Request, current_request
from cloudq.tasks.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")


class Task(Attributes, OwnStates, Retries, task.Task[P, R]):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A task with Celery's attributes, and Celery's options of calls.

    Each option is carried over, ignored or refused. One that is set on a task takes effect; a
    refused one raises `ConfigurationError`. A task that is written as a class is an object of its
    own, which `app.register_task` makes a task.
    """

    of_app: Any = None

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

    def _calls_itself(self) -> bool:
        """Say if calls run `__call__` or a `run` of the task's own, and not the bare function.

        A task of three arguments may be an error callback, for which `__call__` makes them.
        """
        own = is_own(type(self), "__call__") or "run" in vars(self)
        return own or self.arguments.takes(3)

    def _set_up(self, function: Callable[..., Any], **parts: Any) -> None:
        super()._set_up(function, **parts)
        if self.declared.get("pydantic"):
            self.arguments = PlainResult(self.name, function, bound=self.bind, everything=True)
        self.wrapped = self._calls_itself()
        self.on_bound(self._app)

    def _translated(self, options: Mapping[str, Any], of: str = "") -> Any:
        warned: set[str] = vars(self._app).setdefault("warned", set())
        return task_options(without_none(options), of=of or f"task {self.name}", warned=warned)

    def annotation_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of annotations; what is none becomes an attribute of the task."""
        own = {name for name in given if name.isidentifier() and is_keyword_of_its_own(name)}
        for name in own:
            check_free(name, f"task_annotations of {self.name}")
            setattr(self, name, given[name])
        options = {name: value for name, value in given.items() if name not in own}
        return self._translated(options, of=f"task_annotations of {self.name}")

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

    @celerys
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, also of a class that is no task yet.

        An error callback gets the failed call, its exception and its traceback.
        """
        given: Any = args
        if len(given) > 2 and type(given[0]) is dict and "_app" in vars(self):
            stored = not self.request.is_eager and not self.request.called_directly
            given = with_error(given, self._app.runtime, stored=stored)
        return self.run(*given, **kwargs)

    app: Any = AppOf()

    @property
    def request(self) -> Any:
        """The call that is running, with the fields as Celery has them."""
        return view_of(super().request)

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

    @celerys
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
        if is_own(self, "shadow_name") and not options.get("shadow"):
            options["shadow"] = self.shadow_name(args, kwargs, options)
        return options

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send one call to the queue; through `apply_async` where the class has its own."""
        if sends_itself(self):
            return self.apply_async(args, kwargs)
        return super().delay(*args, **kwargs)

    @celerys
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
        if hasattr(self._app, "strict_typing") and is_own(self._app, "send_task"):
            given = {name: value for name, value in options.items() if value is not None}
            app: Any = self._app
            return app.send_task(self.name, args, kwargs, task_type=self, **given)
        return self.send_call(args, kwargs, options)

    def send_call(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> AsyncResult[R]:
        """Send a call as Celery's `apply_async` does, whatever the class has in its place."""
        warned: set[str] = vars(self._app).setdefault("warned", set())
        options = self._named(args, kwargs, options)
        throw = options.pop("throw", None)
        if throw is not None and self._app.runtime.conf.task_always_eager:
            return self.apply(args, kwargs, throw=throw, **options)
        made = call_options(options, of=f"{self.name}.apply_async", warned=warned)
        found = seen(self, args, kwargs, made)
        if found is not None:
            return found
        return super().apply_async(() if args is None else args, kwargs, **made)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run a call here, after `retries=` other tries.

        What it raises is raised with `throw`, or `task_eager_propagates`.
        """
        retries = options.pop("retries", None) or 0
        warned: set[str] = vars(self._app).setdefault("warned", set())
        options = self._named(args or (), kwargs or {}, options)
        made: Any = call_options(options, of=f"{self.name}.apply", warned=warned)
        call = self._merged(made), *call_arguments(args or (), kwargs)
        return self.app.apply(self, *call, throw=throw, retries=retries)

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

    def AsyncResult(self, task_id: str, **parts: Any) -> AsyncResult[R]:  # noqa: N802 (Celery's)
        """Return the result of one of this task's calls. Raises `ValueError` for None."""
        check_id(task_id)
        return super().AsyncResult(task_id)

    def chunks(self, it: Any, n: int) -> Chunks[list[R]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make a group of calls over `n` items each, whose `group()` is a plain one."""
        return Chunks(super().chunks(it, n).tasks)


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


def is_keyword_of_its_own(name: str) -> bool:
    """Say if a name is no option, and looks like none."""
    known = {*OPTIONS, *NOT_SET}
    return name not in known and not get_close_matches(name, known, n=1, cutoff=0.8)


def own_keywords(options: dict[str, Any], base: type[Any]) -> dict[str, Any]:
    """Make a class of the keywords that are no options: they are attributes of the task.

    One that looks like a misspelled option stays, and is refused as an unknown one.
    """
    own = {name: value for name, value in options.items() if is_keyword_of_its_own(name)}
    if not own:
        return {**options, "base": class_of(options["base"])} if options.get("base") else options
    kept = {name: value for name, value in options.items() if name not in own}
    base = class_of(kept.get("base") or base)
    kept["base"] = type(base.__name__, (base,), {"__module__": base.__module__, **own})
    return kept


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


def class_for(app: Any, given: type[Any] | str | None) -> type[Any]:
    """Make the class of an app's tasks, which knows the app."""
    base = class_of(given)
    return type(base.__name__, (base,), {"__module__": base.__module__, "of_app": app})


def class_of(given: type[Any] | str | None) -> type[Any]:
    """Return the class of an app's tasks, importing it if it is given by its dotted name."""
    if isinstance(given, str):
        home, _, name = given.replace(":", ".").rpartition(".")
        try:
            return getattr(import_module(home), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"{given!r} is no class of tasks: {error}") from error
    return given or Task
