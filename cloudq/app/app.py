"""`CloudQ`: the object that users make, with its tasks, settings, schedules and results."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload

from cloudq import settings
from cloudq.app.autodiscover import Packages, discover, include
from cloudq.app.queues import app_queues
from cloudq.app.registration import (
    BoundDecorator,
    Decorator,
    PeriodicDecorator,
    Tasks,
    annotate,
    check_task_options,
    middleware_of,
    register,
)
from cloudq.app.shared_task import APPS
from cloudq.canvas.builtin_tasks import builtin_tasks
from cloudq.errors import ConfigurationError
from cloudq.publishing.batch import Batch
from cloudq.publishing.builder import MessageBuilder
from cloudq.publishing.publisher import Publisher
from cloudq.publishing.results import ResultFactory
from cloudq.results.backend import Backend
from cloudq.results.eager import EagerResult
from cloudq.results.result import AsyncResult
from cloudq.results.terminate import Termination
from cloudq.runtime import Runtime
from cloudq.settings import Settings
from cloudq.tasks.call_options import CallOptions, Options
from cloudq.tasks.options import TaskOptions
from cloudq.tasks.priorities import queues_for
from cloudq.tasks.request import Middleware
from cloudq.tasks.signature import Node, Signature
from cloudq.tasks.signature_json import from_dict
from cloudq.tasks.task import KnownTasks, Prepared, Task
from cloudq.text import masked_url

if TYPE_CHECKING:  # what only workers or only workflows need is loaded at its first use
    from cloudq.app.eager import Eager
    from cloudq.broker.broker import Broker
    from cloudq.canvas.workflows import Workflows
    from cloudq.execution.call import ExecutorOptions
    from cloudq.execution.executor import Executor
    from cloudq.monitoring.control import Control
    from cloudq.results.groups import GroupResult
    from cloudq.schedules.entry import Entry, EntryOptions
    from cloudq.schedules.schedules import Schedules

P = ParamSpec("P")
R = TypeVar("R")

# What the other packages of cloudq need of an app, and its users do not: no part of the reference.
PLUMBING = frozenset(
    {"add_to_chord", "apply", "executor", "publisher", "runtime"}
    | {"start", "start_eagerly", "task_cls", "workflows"}
)


class CloudQ:
    """A set of tasks, a broker to send their calls to, and a backend for their results.

    `CloudQ("shop", broker="sqs://eu-west-1", backend="dynamodb://cloudq")` takes every setting of
    `cloudq.settings.Settings` by name. A setting that is left out comes from the environment
    (`CLOUDQ_BROKER`, ...) or the configuration file. Nothing is connected before its first use.
    Raises `ConfigurationError` for a setting that is unknown or wrong.
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
        self.task_cls = task_cls
        self.tasks: dict[str, Task[..., Any]] = Tasks()
        self.middleware = middleware_of(middleware)
        given = {"broker": broker, "backend": backend, "include": include}
        self._given = settings.plain_names(values) | {
            key: value for key, value in given.items() if value is not None
        }
        self.runtime = Runtime(name, self._settings(self._given))
        self._every_task = KnownTasks(self.tasks, builtin_tasks(self, self.tasks))
        self.runtime.tasks = self.tasks
        self._results = ResultFactory(self.runtime, self._every_task, self._terminate)
        builder = MessageBuilder(self.runtime, self.tasks)
        self.publisher = Publisher(self.runtime, self.tasks, builder, self._results)
        self._discoveries: list[tuple[Packages, str | None]] = []
        self._annotations: object = None
        self._check_conf()
        APPS.add(self)

    def __repr__(self) -> str:
        return f"<CloudQ {self.name} on {masked_url(self.conf.broker)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The app's name."""
        return self.runtime.name

    @property
    def conf(self) -> Settings:
        """The settings; change them with `configure`."""
        return self.runtime.conf

    def config_from_object(self, source: object) -> None:
        """Take settings from a mapping, a module, its name, or an object's attributes.

        The constructor's settings win over them. Raises `ConfigurationError`.
        """
        self._configure(settings.from_object(source) | self._given)

    def configure(self, **values: Any) -> None:
        """Change settings; these win over all others.

        Raises `ConfigurationError` once the broker or the backend is in use.
        """
        if self.runtime.is_open:
            raise ConfigurationError(
                "the settings of an app cannot change once its broker or backend is in use: call "
                "configure() before that"
            )
        self._configure(self._given | settings.plain_names(values))

    def _configure(self, given: dict[str, Any]) -> None:
        """Switch to these settings, or back to the ones before where they are wrong."""
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
        """Load the settings; the `given` ones win over all other sources."""
        return settings.load(given)

    def set_default(self) -> None:
        """Make this the app of shared tasks in every thread without a `set_current` app."""
        APPS.set_default(self)

    def set_current(self) -> None:
        """Make this the app of shared tasks in this thread."""
        APPS.set_current(self)

    # ---- tasks

    def _check_conf(self) -> None:
        """Check `task_routes`, and apply `task_annotations` when it has changed."""
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
        Raises `TypeError` for an unknown option, `ConfigurationError` for a wrong one or a name
        that another task has.
        """
        decorate = partial(
            register,
            options=check_task_options(options),
            bind=bind,
            app=self,
            tasks=self.tasks,
            base=self.task_cls,
        )
        return decorate if function is None else decorate(function)

    def autodiscover_tasks(
        self, packages: Packages = None, related_name: str | None = "tasks", *, force: bool = False
    ) -> None:
        """Import the module `related_name` of each package that has one, for its tasks.

        `packages` are names, or a function that returns them; by default Django's INSTALLED_APPS.
        The import takes place in `load()`, which a worker calls; with `force`, now. It raises
        `ConfigurationError` for a package that does not exist.
        """
        if force:
            discover(packages, related_name)
        else:
            self._discoveries.append((packages, related_name))

    def load(self) -> None:
        """Import the modules of `include` and `autodiscover_tasks`, and so register their tasks."""
        for packages, related_name in self._discoveries:
            discover(packages, related_name)
        self._check_conf()
        include(self.conf.include)

    def queues(self, task: str | None = None, *, priorities: bool = True) -> list[str]:
        """Names the queues that calls go to: the default queue, then the others by name.

        The others are named by tasks (or by one `task`), by `task_routes` and by the schedules in
        the code. A queue with priorities is listed as the queues of its priorities, unless
        `priorities` is false. Queues that only a call or a function in `task_routes` names are
        unknown here. Raises `ConfigurationError` for a wrong schedule.
        """
        entries: Iterable[Entry] = ()
        if "schedules" in vars(self) or self.conf.beat_schedule:  # else not even loaded
            entries = self.schedules.declared(check=False).values()
        builder, default = self.publisher.builder, self.conf.task_default_queue
        names = app_queues(builder, self.tasks, entries, task, default=default)
        named_priorities = self.conf.priority_queues
        return queues_for(names, named_priorities) if priorities and named_priorities else names

    @cached_property
    def schedules(self) -> Schedules:
        """The schedules of this app: lists them, and adds, pauses and runs them at run time."""
        from cloudq.schedules.schedules import Schedules

        return Schedules(self.runtime, self.tasks, self.publisher, self._schedule_options)

    def _schedule_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        Options.of(cast("CallOptions", options))
        return options

    def periodic(self, when: object, /, **given: Unpack[EntryOptions]) -> PeriodicDecorator:
        """Run a task periodically: `@app.periodic(crontab(hour=7), args=(16, 16))` above it.

        A plain function becomes a task. A task may have several schedules; each needs its own
        `name` then, which is the task's by default. `cloudq beat` or the cloud's scheduler sends
        the calls. Raises `ConfigurationError`.
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
        """Run a signature periodically, as in Celery. Returns the name of the schedule."""
        from cloudq.schedules.entry import periodic_entry

        entry, node = periodic_entry(sig, args, kwargs, options)
        given = cast("EntryOptions", {**entry, "name": name or repr(node)})
        return self.schedules.declare(node.task, schedule, given, cloud=False)

    def publish(
        self, calls: Iterable[Prepared[R]], *, bundle: int | None = None
    ) -> list[AsyncResult[R]]:
        """Publish many calls, made by `task.prepare`, in as few requests as the broker allows.

        All are checked before the first is sent. With `bundle` up to so many are one message.
        Raises as `task.delay`, and `PublishError` that names the calls that were refused.
        """
        return self.publisher.send_many(calls, bundle)

    def batch(self, *, bundle: int | None = None) -> Batch:
        """Collect the calls of a block, `with app.batch():`, and send them together: a `Batch`."""
        return self.publisher.batch(bundle)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Publish a call by its task's name; arguments are checked if that is registered here."""
        return self.publisher.send_by_name(name, args, kwargs, options)

    def AsyncResult(self, id: str) -> AsyncResult[Any]:  # noqa: N802 (Celery's name)
        """The result of a task by its id."""
        return self._results.untyped(id)

    def signature(
        self,
        task: str | Mapping[str, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Node[Any]:
        """A call by the task's name, or any node from the dictionary that `Node.to_dict` made."""
        if isinstance(task, Mapping):
            return from_dict(task, self)
        return Signature(task, args, kwargs, options, immutable=immutable, app=self)

    def restore_group(self, id: str) -> GroupResult[Any] | None:
        """The results of a group that was saved; None if there is none, or not any more."""
        return self._results.group(id)

    @cached_property
    def control(self) -> Control:
        """Looks into live workers and tells them what to do, under Celery's names."""
        from cloudq.monitoring.control import Control

        return Control(self.runtime, self._results, self.queues)

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

    # ---- plumbing: for the other packages of cloudq (see PLUMBING)

    def executor(self, **options: Unpack[ExecutorOptions]) -> Executor:
        """Make what runs this app's deliveries: for workers, function handlers and tests."""
        from cloudq.execution.executor import Executor

        known, workflows = self._every_task, self.workflows
        return Executor(self.runtime, known, workflows, middleware=self.middleware, **options)

    @cached_property
    def workflows(self) -> Workflows:
        """The starts of signatures, chains, groups and chords, and the joins of their members."""
        from cloudq.canvas.workflows import Workflows

        return Workflows(self.runtime, self.tasks, self.publisher)

    def start(self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Start a workflow; what `node.delay` does."""
        if self.conf.task_always_eager:
            return self.start_eagerly(node, args, kwargs)
        if isinstance(node, Signature) and not (node.links or node.link_errors):
            one = node.clone(args, kwargs)
            return self.send_task(one.task, one.args, one.kwargs, **cast("Any", one.options))
        return self.workflows.start(node, args, kwargs)

    def start_eagerly(self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a workflow here and now; what `node.apply` does."""
        self.workflows.checks.shape(node)
        return self._eager().start(node.clone(args, kwargs))

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the chord of the running task; what `self.add_to_chord` does."""
        return self.workflows.add_to_chord(node)

    def apply(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[R]:
        """Run a task here, through the same executor as a worker; retries follow at once."""
        return self._eager().apply(task, options, args, kwargs)

    def _eager(self) -> Eager:
        from cloudq.app.eager import Eager

        return Eager(self.executor(is_eager=True), self._every_task, self.publisher.builder)

    def _terminate(self, ids: Sequence[str], termination: Termination) -> None:
        """Have the workers end tasks that run, as `result.revoke(terminate=True)` asks."""
        self.control.carry_out(ids, termination)
