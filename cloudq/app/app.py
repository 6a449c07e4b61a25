"""The app: names to tasks, settings, and the way from a call to the broker."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload

from cloudq import settings
from cloudq.app.annotations import annotate
from cloudq.app.autodiscover import Packages, discover
from cloudq.app.registration import BoundDecorator, Decorator, PeriodicDecorator, register
from cloudq.app.shared_task import APPS
from cloudq.broker.broker import Broker
from cloudq.canvas.builtin_tasks import builtin_tasks
from cloudq.errors import ConfigurationError
from cloudq.publishing.builder import MessageBuilder
from cloudq.publishing.publisher import Publisher
from cloudq.publishing.results import ResultFactory
from cloudq.results.backend import Backend
from cloudq.results.result import AsyncResult, EagerResult
from cloudq.results.terminate import Termination
from cloudq.runtime import Runtime
from cloudq.settings import Settings
from cloudq.tasks.call_options import CallOptions, Options
from cloudq.tasks.options import TaskOptions
from cloudq.tasks.priorities import queues_for
from cloudq.tasks.request import Middleware
from cloudq.tasks.signature import Node, Signature, from_dict
from cloudq.tasks.task import Prepared, Task

if TYPE_CHECKING:  # what only workers or only workflows need is loaded at its first use
    from cloudq.app.eager import Eager
    from cloudq.canvas.joins import Joins
    from cloudq.canvas.workflows import Workflows
    from cloudq.execution.executor import Executor
    from cloudq.monitoring.control import Control
    from cloudq.results.groups import GroupResult
    from cloudq.schedules.entry import EntryOptions
    from cloudq.schedules.schedules import Schedules

P = ParamSpec("P")
R = TypeVar("R")


class CloudQ:
    """A set of tasks with a broker to send them to and a backend for their results.

    `CloudQ("shop", broker="sqs://eu-west-1", backend="dynamodb://cloudq")`; any other setting of
    `cloudq.settings.Settings` by name as well. What is left out comes from the environment
    (`CLOUDQ_BROKER`, ...) or the configuration file. Nothing is connected before it is used.
    Raises `ConfigurationError` for settings that cannot be.
    """

    def __init__(
        self,
        name: str = "cloudq",
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        middleware: Sequence[Middleware] = (),
        task_cls: type[Task[..., Any]] = Task,
        **values: Any,
    ) -> None:
        self.name = name
        self.task_cls = task_cls
        self.tasks: dict[str, Task[..., Any]] = {}
        self.middleware = list(middleware)
        given = {"broker": broker, "backend": backend, "include": include}
        self._given = settings.plain_names(values) | {
            key: value for key, value in given.items() if value is not None
        }
        self.runtime = Runtime(name, self._settings(self._given))
        self._every_task = ChainMap(self.tasks, builtin_tasks(self, self.tasks))
        self._results = ResultFactory(self.runtime, self.tasks, self._terminate)
        builder = MessageBuilder(self.runtime, self.tasks)
        self.publisher = Publisher(self.runtime, self.tasks, builder, self._results)
        self._discoveries: list[tuple[Packages, str | None]] = []
        self._annotations: object = None
        self._check_conf()
        APPS.add(self)

    def __repr__(self) -> str:
        return f"<CloudQ {self.name} on {self.conf.broker}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def conf(self) -> Settings:
        """The settings; change them with `configure`."""
        return self.runtime.conf

    def config_from_object(self, source: object) -> None:
        """Take settings from a mapping, a module, its name, or an object's attributes.

        What the constructor was given stays above them. Raises `ConfigurationError`.
        """
        self._configure(settings.from_object(source) | self._given)

    def configure(self, **values: Any) -> None:
        """Change settings, above all others; before the broker and the backend are first used."""
        if self.runtime.is_open:
            raise ConfigurationError("configure the app before its broker and backend are used")
        self._configure(self._given | settings.plain_names(values))

    def _configure(self, given: dict[str, Any]) -> None:
        """Take these settings, or keep the ones before where they are wrong."""
        before = self.runtime.conf
        self.runtime.conf = self._settings(given)
        try:
            self._check_conf()
        except ConfigurationError:
            self.runtime.conf = before
            self._check_conf()
            raise
        self._given = given

    def _settings(self, given: Mapping[str, Any]) -> Settings:
        """Read the settings, of which these stand above all others."""
        return settings.load(given)

    def set_default(self) -> None:
        """Make this the app of shared tasks wherever no thread has another one."""
        APPS.set_default(self)

    def set_current(self) -> None:
        """Make this the app of shared tasks in this thread."""
        APPS.set_current(self)

    # ---- tasks

    def _check_conf(self) -> None:
        """Take what the settings say of tasks. Raises `ConfigurationError`."""
        _ = self.publisher.builder.router
        source = self.conf.task_annotations
        if source is not self._annotations:
            self._annotations = source
            for task in set(self.tasks.values()):
                annotate(task, source)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> Decorator: ...
    def task(
        self, function: Callable[..., Any] | None = None, /, *, bind: bool = False, **options: Any
    ) -> Any:
        """Make a function a task: `@app.task` or `@app.task(queue="mail", max_retries=5)`.

        The options are those of `TaskOptions` and `Policy`. With `bind=True` the function's
        first parameter is the task itself, for `self.request` and `self.retry`.
        Raises `ConfigurationError` for a name that is taken or options that cannot be.
        """
        if function is not None:
            return self._register(function, TaskOptions(), bind=bind)
        known = TaskOptions.__annotations__
        for option in options:
            if option not in known:
                raise TypeError(f"there is no task option {option!r}; known: {', '.join(known)}")

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            return self._register(function, cast("TaskOptions", options), bind=bind)

        return decorate

    def _register(
        self, function: Callable[..., Any], options: TaskOptions, *, bind: bool
    ) -> Task[..., Any]:
        return register(
            function, options, bind=bind, app=self, tasks=self.tasks, base=self.task_cls
        )

    def autodiscover_tasks(
        self,
        packages: Packages = None,
        related_name: str | None = "tasks",
        *,
        force: bool = False,
    ) -> None:
        """Register the tasks in each package's module `related_name`, where there is one.

        `packages` are names, or a function that gives them; left out, Django's INSTALLED_APPS.
        Nothing is imported before the app is loaded, as a worker does, unless `force` is given.
        Raises `ConfigurationError` then for a package that there is not.
        """
        if force:
            discover(packages, related_name)
        else:
            self._discoveries.append((packages, related_name))

    def load(self) -> None:
        """Import the modules in `include` and those to discover, so that their tasks are known."""
        for packages, related_name in self._discoveries:
            discover(packages, related_name)
        self._check_conf()
        for module in self.conf.include:
            try:
                import_module(module)
            except ModuleNotFoundError as error:
                raise ConfigurationError(f"include: cannot import {module!r}: {error}") from error

    def queues(self, task: str | None = None, *, priorities: bool = True) -> list[str]:
        """Names the queues that calls go to: the default queue, then the others by name.

        The others are those that tasks, the setting `task_routes` and the schedules of the code
        name. A queue with priorities is listed as the queues of its priorities, the high one
        first; with `priorities=False` by its own name alone. With a `task`, the queues are those
        that this task's calls go to unless they name one themselves. Not listed is a queue that
        nothing names before a call is made: one of `apply_async(queue=...)`, of a function in
        `task_routes` (it is asked for schedules, whose arguments are known), or of a schedule made
        at run time. Raises `ConfigurationError` for a schedule that cannot be.
        """
        default, router = self.conf.task_default_queue, self.publisher.builder.router
        named = self._scheduled_queues(task)
        if task is None:
            own = {each.policy.queue for each in self.tasks.values() if each.policy.queue}
            named |= {default, *own, *router.queues}
        else:
            known = self.tasks.get(task)
            own = known.policy.queue if known else None
            named.add(own or router.queue_of(task) or default)
        plain = [*({default} & named), *sorted(named - {default})]
        named_priorities = self.conf.priority_queues
        return queues_for(plain, named_priorities) if priorities and named_priorities else plain

    def _scheduled_queues(self, task: str | None) -> set[str]:
        """The queues that the schedules of a task, or of all, name or are routed to."""
        if "schedules" not in vars(self) and not self.conf.beat_schedule:
            return set()  # none is declared: what schedules need is not loaded
        entries = self.schedules.declared(check=False).values()
        routed = (
            self.publisher.builder.routed(
                each.task, each.args, each.kwargs, Options(**each.options)
            )
            for each in entries
            if task in (None, each.task)
        )
        return {options.queue for options in routed if options.queue}

    # ---- periodic tasks

    @cached_property
    def schedules(self) -> Schedules:
        """The schedules of this app: to look at, and to add, pause and run at run time."""
        from cloudq.schedules.schedules import Schedules

        return Schedules(self.runtime, self.tasks, self.publisher, self._schedule_options)

    def _schedule_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        Options.of(cast("CallOptions", options))
        return options

    def periodic(self, when: object, /, **given: Unpack[EntryOptions]) -> PeriodicDecorator:
        """Run a task again and again: `@app.periodic(crontab(hour=7), args=(16, 16))` above it.

        A function that is no task yet becomes one. A task may have several, each with its `name`,
        which else is the task's. `cloudq beat` sends them, or the cloud's scheduler. Raises
        `ConfigurationError`.
        """

        def decorate(function: Any) -> Any:
            is_task = isinstance(function, Task)
            task = cast("Task[..., Any]", function if is_task else self.task(function))
            self.schedules.declare(task.name, when, given)
            return task

        return decorate

    def add_periodic_task(
        self,
        schedule: object,
        sig: Signature[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Run a signature again and again, as Celery has it; the entry's name."""
        from cloudq.schedules.entry import periodic_entry

        entry, node = periodic_entry(sig, args, kwargs, options)
        given = cast("EntryOptions", {**entry, "name": name or repr(node)})
        return self.schedules.declare(node.task, schedule, given, cloud=False)

    # ---- publishing

    def publish(self, calls: Iterable[Prepared[R]]) -> list[AsyncResult[R]]:
        """Publish many calls, made by `task.prepare`, in as few requests as the broker allows.

        All are checked before the first is sent. Raises as `task.delay`, and `PublishError`
        naming the calls that the broker did not take.
        """
        return self.publisher.send_many(calls)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Publish a call by the task's name, which need not be registered here.

        The arguments of a task that is registered are checked.
        """
        task = self.tasks.get(name)
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        return self.publisher.send_by_name(name, Options.of(options), args, kwargs or {})

    # ---- results

    def AsyncResult(self, id: str) -> AsyncResult[Any]:  # noqa: N802 (Celery's name)
        """The result of a task by its id."""
        return self._results.untyped(id)

    # ---- eager

    def apply(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[R]:
        """Run a task here, through the same executor as a worker; retries follow at once."""
        return self._eager().apply(task, options, args, kwargs)

    # ---- workflows

    def signature(
        self,
        task: str | Mapping[str, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Node[Any]:
        """A call by the task's name, or any node from the dictionary that `to_dict` made."""
        if isinstance(task, Mapping):
            return from_dict(task, self)
        return Signature(task, args, kwargs, options, immutable=immutable, app=self)

    def start(self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Start a workflow; what `node.delay` does."""
        if self.conf.task_always_eager:
            return self.start_eagerly(node, args, kwargs)
        if isinstance(node, Signature) and not (node.links or node.link_errors):
            return self._start_one(node, args, kwargs)
        return self.workflows.start(node, args, kwargs)

    def start_eagerly(self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a workflow here and now; what `node.apply` does."""
        self.workflows.checks.shape(node)
        return self._eager().start(node.clone(args, kwargs))

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the chord of the running task; what `self.add_to_chord` does."""
        return self.workflows.add_to_chord(node)

    def restore_group(self, id: str) -> GroupResult[Any] | None:
        """The results of a group that was saved; None if there is none, or not any more."""
        return self._results.group(id)

    def _start_one(
        self, node: Signature[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """A single call: checked against its task, as `apply_async` does."""
        node = node.clone(args, kwargs)
        return self.send_task(node.task, node.args, node.kwargs, **cast("Any", node.options))

    @property
    def joins(self) -> Joins | None:
        """What joins the members of chords; None without a result backend."""
        return self.workflows.joins

    @cached_property
    def workflows(self) -> Workflows:
        """What this app does with signatures, chains, groups and chords."""
        from cloudq.canvas.workflows import Workflows

        return Workflows(self.runtime, self.tasks, self.publisher)

    def _eager(self) -> Eager:
        from cloudq.app.eager import Eager

        return Eager(self.executor(eager=True), self._every_task, self.publisher.builder)

    # ---- workers

    @cached_property
    def control(self) -> Control:
        """Looks into live workers and tells them what to do, under Celery's names."""
        from cloudq.monitoring.control import Control

        return Control(self.runtime, self._results, self._purge)

    def _terminate(self, ids: Sequence[str], termination: Termination) -> None:
        """Have the workers end tasks that run, as `result.revoke(terminate=True)` asks."""
        self.control.stop(
            ids, termination.signal, wait=termination.wait, timeout=termination.timeout
        )

    def _purge(self) -> int | None:
        """Empty the app's queues; how many messages that were, where the broker can tell."""
        from cloudq.broker.purge import purge_queues

        return purge_queues(self.broker, self.queues())

    # ---- what it stands on

    def executor(
        self,
        *,
        hostname: str = "",
        eager: bool = False,
        run_async: Callable[[Coroutine[Any, Any, Any]], Any] | None = None,
        stop_at_hard_limit: bool = False,
    ) -> Executor:
        """What runs this app's deliveries; for workers, function handlers and tests."""
        from cloudq.execution.executor import Executor

        more = {} if run_async is None else {"run_async": run_async}
        return Executor(
            self.runtime,
            self._every_task,
            self.workflows,
            middleware=self.middleware,
            hostname=hostname,
            is_eager=eager,
            stop_at_hard_limit=stop_at_hard_limit or eager,
            **more,
        )

    @property
    def broker(self) -> Broker:
        """The broker, opened at its first use. Raises `ConfigurationError`."""
        return self.runtime.broker

    @property
    def backend(self) -> Backend | None:
        """The result store, opened at its first use; None when the app has none."""
        return self.runtime.backend

    def close(self) -> None:
        """Close the broker and the backend; a later use opens them again."""
        self.runtime.close()
