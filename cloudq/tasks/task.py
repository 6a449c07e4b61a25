"""A task: a named function with options, typed by its own parameters and result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from cloudq.amounts import count
from cloudq.driver.immutable import immutable, shown_repr
from cloudq.errors import MaxRetriesExceeded
from cloudq.messages.redaction import Named, Secrecy
from cloudq.results.eager import EagerResult
from cloudq.results.names import ResultNames, SetNames
from cloudq.results.result import AsyncResult
from cloudq.results.waiting import Promise
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.bound import BoundTask
from cloudq.tasks.call_arguments import call_arguments, each_of, in_thread, positional
from cloudq.tasks.call_options import NO_OPTIONS, CallOptions, Options, check_names
from cloudq.tasks.hooks import HOOKS, Hooks
from cloudq.tasks.on_commit import on_commit
from cloudq.tasks.options import Policy, TaskOptions
from cloudq.tasks.signature import Signature, group
from cloudq.tasks.task_app import TaskApp

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


_MANY = "map, starmap and chunks take a list of items"
# A chunk is a message, and no message is as large.
_LARGEST = 1_000_000_000


def _portion(source: Iterator[Sequence[Any]], size: int) -> list[Sequence[Any]]:
    return list(islice(source, size))


def _call_of(kind: type[Any]) -> object:
    return kind.__call__


def _init_of(kind: type[Any]) -> object:
    return kind.__init__


def is_awaited(value: object) -> bool:
    """Say if what a function returned is awaited for its value; the result of a call is not."""
    return hasattr(type(value), "__await__") and not isinstance(value, ResultNames | SetNames)


@immutable
class Prepared(Generic[R]):
    """A call that is not sent yet; `app.publish` sends many of them."""

    task: Task[..., R]
    options: Options
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def __repr__(self) -> str:
        redaction = self.task.app.runtime.redaction
        args, kwargs = redaction.shown(self.task.name, self.args, self.kwargs)
        return shown_repr(self, {"args": args, "kwargs": kwargs})


class Task(BoundTask, Hooks, Generic[P, R]):
    """A function that can run elsewhere.

    Calling a task runs it here and now, as the function it is. `delay` sends it to its queue.
    A subclass, given as `base=`, may override the hooks and `__call__`, and have attributes that
    are defaults of its tasks' options. Each process has one instance of a task.
    """

    MaxRetriesExceededError = MaxRetriesExceeded

    def _set_up(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        app: TaskApp,
        policy: Policy,
        arguments: Arguments,
        declared: TaskOptions | None = None,
        bind: bool = False,
        call_options: Options | None = None,
    ) -> None:
        self.function = function
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.name = name
        self.policy = policy
        # The options of its class and its decorator, which annotations override.
        self.declared: TaskOptions = declared or {}
        self.annotated: Mapping[str, Any] = {}  # those of the setting task_annotations
        self.changed: TaskOptions = {}  # those set on the task itself, above all others
        self.arguments = arguments
        self.bind = bind
        self._app = app
        self._call_options = call_options or NO_OPTIONS
        self.hooked = False  # whether any hook is overridden, so that others cost nothing
        self.wrapped = _call_of(type(self)) is not _call_of(Task)
        self.find_hooks()
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def __init__(self, function: Callable[..., Any] | None = None, **parts: Any) -> None:
        # Without a function it is the `super().__init__()` of a subclass that was set up already.
        if function is not None:
            self._set_up(function, **parts)

    @classmethod
    def made(cls, function: Callable[..., Any], **parts: Any) -> Self:
        """Make the task of a function; a subclass's own `__init__()` runs last."""
        task = cls.__new__(cls)
        task._set_up(function, **parts)
        # One of a subclass's own; it needs no arguments.
        if _init_of(cls) is not _init_of(Task):
            cls.__init__(task)
        return task

    def adopt(self, function: Callable[..., Any], **parts: Any) -> Self:
        """Make this object, which its program has made, the task of a function."""
        self._set_up(function, **parts)
        return self

    @classmethod
    def class_options(cls, names: Collection[str]) -> dict[str, Any]:
        """Return the options that the class has as attributes, for all tasks of it.

        `names` are those that there are.
        """
        kinds: list[type[Any]] = [kind for kind in reversed(cls.__mro__) if kind not in _BASES]
        found = {name: value for kind in kinds for name, value in vars(kind).items()}
        return {name: value for name, value in found.items() if name in names}

    def annotation_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options that annotations give; a subclass may name them otherwise."""
        return given

    def find_hooks(self) -> None:
        """Note whether any hook is overridden, by the class or on this task itself."""
        own = vars(self)
        self.hooked = any(
            hook in own or getattr(type(self), hook) is not getattr(Hooks, hook) for hook in HOOKS
        )

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def secrecy(self, named: Named | None) -> Secrecy | None:
        """Return what is secret in its calls; `named` tells of names by the setting `redact`."""
        return self.arguments.secrecy(self.policy.secret, named)

    @property
    def app(self) -> TaskApp:
        """The app that the task belongs to."""
        return self._app

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the bare function, without a subclass's own `__call__` around it."""
        return self.function(*((self, *args) if self.bind else args), **kwargs)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here; an `async def` one returns its coroutine, as it would bare."""
        return self.function(*((self, *args) if self.bind else args), **kwargs)

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send one call to the queue. Raises `InvalidArguments`, `EncodeError`, `BrokerError`."""
        return self._app.publisher.send(self, self._call_options, args, kwargs)

    def delay_on_commit(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Call `delay` when Django's transaction commits, and never when it is rolled back.

        A task that is sent within a transaction may run before the rows it reads are committed. The
        arguments are checked and written now, so what happens to them afterwards is not sent, and
        the id is fixed now. Outside of Django the call is sent at once.
        """
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Do as `delay_on_commit`, with options for this one call."""
        made = self._merged(options)
        publisher = self._app.publisher
        promised = publisher.promised(self, made)
        callbacks = {"link": deepcopy(made.link), "link_error": deepcopy(made.link_error)}
        made = replace(made, task_id=promised.id, **callbacks)
        given = publisher.copied(self, made, *call_arguments(args, kwargs))
        promised.promise = Promise()
        on_commit(partial(publisher.fulfil, promised, self, made, *given), promised.promise)
        return promised

    async def adelay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send one call to the queue without blocking the event loop."""
        return await in_thread(self.delay, args, kwargs)

    def prepare(self, /, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """Make the call without sending it; `app.publish` sends many of them in few requests."""
        return Prepared(task=self, options=self._call_options, args=args, kwargs=kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Send one call with options of its own. An unknown option is a `TypeError`.

        `link` is called with the value when the task has succeeded, `link_error` when it failed.
        """
        return self._app.publisher.send(self, self._merged(options), *call_arguments(args, kwargs))

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool = False,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Run one call in this process as a worker would: with retries, time limits and middleware.

        With `throw` a failure is raised here and not only by the result.
        """
        given = call_arguments(args, kwargs)
        result = self._app.apply(self, self._merged(options), *given)
        if throw:
            result.get()
        return result

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802 (Celery's name)
        """Return the result of one of this task's calls, by its id."""
        return self._app.publisher.result_of(self, task_id)

    @overload
    def s(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[R]: ...
    @overload
    def s(self, /, *args: Any, **kwargs: Any) -> Signature[R]: ...
    def s(self, /, *args: Any, **kwargs: Any) -> Signature[R]:
        """Make a signature: a call to be made later, with all or some of its arguments."""
        return Signature(self.name, args, kwargs, self._given(), app=self._app)

    def si(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Make an immutable signature, which takes no value of the task before it."""
        return Signature(self.name, args, kwargs, self._given(), immutable=True, app=self._app)

    def signature(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[R]:
        """Make a signature with options."""
        check_names(options)
        given = {**self._given(), **options}
        return Signature(self.name, args, kwargs, given, immutable=immutable, app=self._app)

    subtask = signature

    def map(self, items: Iterable[Any]) -> Signature[list[R]]:
        """Make one call, in one message, that runs this task on each item."""
        return self._of_many("cloudq.map", list(each_of(items, _MANY)))

    def starmap(self, items: Iterable[Sequence[Any]]) -> Signature[list[R]]:
        """Make the same call as `map`, where each item is a list of arguments."""
        given = [list(positional(item)) for item in each_of(items, _MANY)]
        return self._of_many("cloudq.starmap", given)

    def chunks(self, items: Iterable[Sequence[Any]], size: int) -> group[list[R]]:
        """Make a group of `starmap` calls over `size` items each, 1 at least."""
        count(size, "the size of chunks", least=1, most=_LARGEST)
        parts = iter(partial(_portion, each_of(items, _MANY), size), [])
        return group([self.starmap(part) for part in parts])

    def _of_many(self, builtin: str, items: list[Any]) -> Signature[list[R]]:
        given = (self.name, items)
        return Signature(builtin, given, options=self._given(), immutable=True, app=self._app)

    def _given(self) -> dict[str, Any]:
        """Return the options that `options()` has set."""
        return {**self._call_options.given()}

    def linked(
        self, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Signature[R]:
        """Return a call with callbacks as a signature with all of its options."""
        return Signature[R](self.name, args, kwargs, app=self._app).set(**options.given())

    def options(self, **options: Unpack[CallOptions]) -> Task[P, R]:
        """Copy this task with options for its calls: `t.options(countdown=5).delay()`."""
        made = copy(self)
        made._call_options = self._merged(options)
        return made

    def _merged(self, options: CallOptions) -> Options:
        if not options:
            return self._call_options
        check_names(options)
        return replace(self._call_options, **options)


_BASES = frozenset[type[Any]](Task.__mro__)


class KnownTasks(Mapping[str, Task[..., Any]]):
    """The tasks of an app, and the built-in ones where it has none of that name.

    It is looked at several times a call: `collections.ChainMap` takes five times as long.
    """

    __slots__ = ("_builtin", "_own")

    def __init__(
        self, own: Mapping[str, Task[..., Any]], builtin: Mapping[str, Task[..., Any]]
    ) -> None:
        self._own = own
        self._builtin = builtin

    def __getitem__(self, name: str) -> Task[..., Any]:
        try:
            return self._own[name]
        except KeyError:
            return self._builtin[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._builtin

    def __iter__(self) -> Iterator[str]:
        return iter({**self._builtin, **self._own})

    def __len__(self) -> int:
        return len({**self._builtin, **self._own})
