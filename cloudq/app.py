"""The app: names to tasks, settings, and the way from a call to the broker."""

from __future__ import annotations

import logging
import sys
from collections import ChainMap
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import tzinfo
from functools import cached_property, partial
from importlib import import_module
from threading import RLock
from types import TracebackType
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from cloudq import lifecycle, settings
from cloudq.annotations import annotate
from cloudq.arguments import Arguments
from cloudq.backend import Backend
from cloudq.broker import Broker
from cloudq.canvas.builtin import builtin_tasks
from cloudq.canvas.checks import Checks
from cloudq.canvas.eager import run_eagerly
from cloudq.canvas.joins import Joins
from cloudq.canvas.linking import linked
from cloudq.canvas.nodes import Node, Signature, from_dict
from cloudq.canvas.plan import Planner
from cloudq.canvas.results import GroupResult, restore_group, restored
from cloudq.canvas.workflows import Workflows
from cloudq.codec import dump_value
from cloudq.codecs import Codec
from cloudq.control import Control
from cloudq.discovery import Packages, discover
from cloudq.driver import Delivery, Limits
from cloudq.envelope import Envelopes, zone_of
from cloudq.errors import BackendError, ConfigurationError, Replaced, ServiceError
from cloudq.execution import Executor
from cloudq.history import History, Level
from cloudq.ids import new_id
from cloudq.message import TaskMessage
from cloudq.middleware import Middleware, current_request
from cloudq.outcome import Job
from cloudq.parking import Parking
from cloudq.record import Record, State
from cloudq.result import AsyncResult, EagerResult
from cloudq.schedules.entries import EntryOptions, periodic_entry
from cloudq.schedules.registry import Schedules
from cloudq.services import Services
from cloudq.settings import Settings
from cloudq.settlement import Action
from cloudq.shared import APPS
from cloudq.states import own_state
from cloudq.task import CallOptions, Options, Prepared, Task, TaskOptions, policy
from cloudq.throttling.rules import Throttle, check_templates, key_text, need_store
from cloudq.throttling.unique import Uniques

log = logging.getLogger("cloudq.app")

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

# Of the queue that there is not when a task runs at the call.
_EAGER = Limits(
    batch=1, body=0, batch_body=0, max_delay=float("inf"), max_lease=0.0, max_wait=0.0, billed=False
)


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
        self.conf: Settings = settings.load(self._given)
        self._builtin = builtin_tasks(self, self.tasks)
        self.services = Services()
        self._envelopes = Envelopes(self.tasks, lambda: self.conf, self.now)
        self._lock = RLock()
        self._broker: Broker | None = None
        self._backend: Backend | None = None
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

    def config_from_object(self, source: object) -> None:
        """Take settings from a mapping, a module, its name, or an object's attributes.

        What the constructor was given stays above them. Raises `ConfigurationError`.
        """
        self._configure(settings.from_object(source) | self._given)

    def configure(self, **values: Any) -> None:
        """Change settings, above all others; before the broker and the backend are first used."""
        if self._broker is not None or self._backend is not None:
            raise ConfigurationError("configure the app before its broker and backend are used")
        self._configure(self._given | settings.plain_names(values))

    def _configure(self, given: dict[str, Any]) -> None:
        """Have these settings, or the ones before where they cannot be."""
        before = self.conf
        self.conf = settings.load(given)
        try:
            self._check_conf()
        except ConfigurationError:
            self.conf = before
            self._check_conf()
            raise
        self._given = given

    def set_default(self) -> None:
        """Make this the app of shared tasks wherever no thread has another one."""
        APPS.set_default(self)

    def set_current(self) -> None:
        """Make this the app of shared tasks in this thread."""
        APPS.set_current(self)

    # ---- tasks

    def _check_conf(self) -> None:
        """Take what the settings say of tasks. Raises `ConfigurationError`."""
        _ = self._envelopes.router
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
    def task(
        self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]
    ) -> _BoundDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> _Decorator: ...
    def task(
        self, function: Callable[..., Any] | None = None, /, *, bind: bool = False, **options: Any
    ) -> Any:
        """Make a function a task: `@app.task` or `@app.task(queue="mail", max_retries=5)`.

        The options are those of `cloudq.task.TaskOptions` and `Policy`. With `bind=True` the
        function's first parameter is the task itself, for `self.request` and `self.retry`.
        Raises `ConfigurationError` for a name that is taken or options that cannot be.
        """
        if function is not None:
            return self._register(function, TaskOptions(), bind)
        known = TaskOptions.__annotations__
        for option in options:
            if option not in known:
                raise TypeError(f"there is no task option {option!r}; known: {', '.join(known)}")

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            return self._register(function, cast("TaskOptions", options), bind)

        return decorate

    def _register(
        self, function: Callable[..., Any], options: TaskOptions, bind: bool
    ) -> Task[..., Any]:
        module = _main_module() if function.__module__ == "__main__" else function.__module__
        name = options.get("name") or f"{module}.{function.__qualname__.replace('.<locals>', '')}"
        existing = self.tasks.get(name)
        if existing is not None and existing.function.__code__ != function.__code__:
            raise ConfigurationError(f"two tasks are named {name!r}: give one of them name=...")
        base = options.get("base") or self.task_cls
        options = cast("TaskOptions", {**_class_options(base), **options})
        made = policy(name, options)
        arguments = Arguments(name, function, bound=bind, everything=options.get("pydantic", False))
        parameters, is_open = arguments.parameters
        check_templates(name, made.throttle, parameters, open=is_open)
        task: Task[..., Any] = base.made(
            function,
            name=name,
            app=self,
            policy=made,
            arguments=arguments,
            bind=bind,
        )
        task.declared = options
        if self.conf.task_annotations is not None:
            annotate(task, self.conf.task_annotations)
        for known in (name, *options.get("aliases", ())):
            taken = self.tasks.get(known)
            if taken is not None and taken.function.__code__ != function.__code__:
                raise ConfigurationError(f"task {name}: its alias {known!r} is another task's name")
            self.tasks[known] = task
        return task

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

    @property
    def routed_queues(self) -> Sequence[str]:
        """The queues that the setting `task_routes` names."""
        return self._envelopes.router.queues

    def retries_of(self, task: Task[..., Any]) -> int | None:
        """How often a task may be retried; None = for ever."""
        return task.policy.retries(self.conf.max_retries)

    # ---- periodic tasks

    @cached_property
    def schedules(self) -> Schedules:
        """The schedules of this app: to look at, and to add, pause and run at run time."""
        return Schedules(self, lambda options: self._schedule_options(options))

    def _schedule_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        Options.of(cast("CallOptions", options))
        return options

    def periodic(self, when: object, /, **given: Unpack[EntryOptions]) -> _Periodic:
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
        entry, node = periodic_entry(sig, args, kwargs, options)
        given = cast("EntryOptions", {**entry, "name": name or repr(node)})
        return self.schedules.declare(node.task, schedule, given, cloud=False)

    # ---- publishing

    def send(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[R]:
        """Publish one checked call; what `task.delay` and `task.apply_async` do."""
        if options.link or options.link_error:
            return self.start(linked(task.name, args, kwargs, options, self), (), {})
        if self.conf.task_always_eager:
            return self._eager(task, options, args, kwargs)
        message = self._message(task, options, args, kwargs)
        [id] = self._send([message], named=options.task_id is not None)
        return self._result(id, task)

    def publish(self, calls: Iterable[Prepared[R]]) -> list[AsyncResult[R]]:
        """Publish many calls, made by `task.prepare`, in as few requests as the broker allows.

        All are checked before the first is sent. Raises as `task.delay`, and `PublishError`
        naming the calls that the broker did not take.
        """
        prepared = list(calls)
        if self.conf.task_always_eager:
            return [self._eager(c.task, c.options, c.args, c.kwargs) for c in prepared]
        messages = [self._message(c.task, c.options, c.args, c.kwargs) for c in prepared]
        ids = self._send(messages, named=any(c.options.task_id is not None for c in prepared))
        return [self._result(id, call.task) for id, call in zip(ids, prepared, strict=True)]

    def written(self, call: Prepared[Any]) -> TaskMessage:
        """The message of a call as it would be sent now. Raises as `task.delay`."""
        return self._message(call.task, call.options, call.args, call.kwargs)

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
        if self.conf.task_always_eager:
            raise ConfigurationError(f"task {name!r} is not registered, so it cannot run eagerly")
        message = self._envelope(name, Options.of(options), args, kwargs or {})
        [id] = self._send([message], named="task_id" in options)
        return self.AsyncResult(id)

    def _send(self, messages: Sequence[TaskMessage], *, named: bool) -> list[str]:
        """Publish; the ids, of a unique call that of its equal if that is queued or runs."""
        if all(message.unique_key is None for message in messages):
            self._post(messages, named=named)
            return [message.id for message in messages]
        uniques = Uniques(lambda: self.backend, self._unique_for)
        return uniques.send(messages, lambda fresh: self._post(fresh, named=named))

    def _refuse_unkept(self, messages: Sequence[TaskMessage]) -> None:
        for message in messages:
            task = self.tasks.get(message.task)
            if task is not None and task.policy.throttle is not None:
                need_store(message.task, task.policy.throttle)

    def _unique_for(self, message: TaskMessage) -> float:
        task = self.tasks.get(message.task)
        return ((task and task.policy.throttle) or Throttle()).unique_for

    def _post(self, messages: Sequence[TaskMessage], *, named: bool) -> None:
        """Send, and remember where long delayed messages wait, so that revoking finds them.

        Of ids that the caller chose (`named`) something may be recorded already, which stays.
        """
        if self.conf.backend_url is None:
            self._refuse_unkept(messages)
        handles = self.broker.send(messages)
        if not handles or named or self.backend is None:
            return
        places = {
            message.id: (
                message.task,
                message.queue,
                handles[message.id],
                message.not_before or 0.0,
            )
            for message in messages
            if message.id in handles
        }
        try:
            self.backend.note_scheduled(places)
        except BackendError as error:
            # They are sent: revoked ones will be dropped when they arrive, which is late.
            log.warning("delayed messages cannot be taken back before they are due: %s", error)

    def _message(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskMessage:
        args, kwargs = task.arguments.check(args, kwargs)
        throttle = task.policy.throttle
        if throttle is not None and throttle.unique and options.unique_key is None:
            named = partial(task.arguments.named, args, kwargs)
            options = replace(options, unique_key=key_text(throttle.unique, args, kwargs, named))
        return self._envelope(task.name, options, args, kwargs)

    def _envelope(
        self,
        name: str,
        options: Options,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> TaskMessage:
        parent = current_request.get()
        message = self._envelopes.make(
            name,
            *self._envelopes.written(name, args, kwargs, options),
            options,
            root=parent.root_id if parent else None,
            parent=parent.id if parent else None,
            depth=self.workflows.depth(parent),
            unique_key=options.unique_key,
        )
        if parent is not None:
            parent.children.append(((message.id, None), None))
        return message

    # ---- results

    @property
    def zone(self) -> tzinfo:
        """The time zone of datetimes without one."""
        return zone_of(self.conf.timezone)

    def result_of(self, task: Task[..., R], task_id: str) -> AsyncResult[R]:
        """The result of a call of this task; what `task.AsyncResult` gives."""
        return self._result(task_id, task)

    def update_state(self, task_id: str, fence: int, state: str, meta: Any) -> None:
        """Record a state of a running task's own; what `self.update_state` does."""
        record = own_state(task_id, fence, state, meta)
        request = current_request.get()
        if self.backend is None or (request is not None and request.is_eager):
            return
        if fence < 0:  # another task's, whose token only its record has
            known = self.backend.record(task_id)
            record = replace(record, fence=known.fence if known else 0)
        standing = self.backend.advance(record)
        if standing is not None:
            log.warning("task %s: %s is not recorded, it is %s", task_id, state, standing.state)

    def AsyncResult(self, id: str) -> AsyncResult[Any]:  # noqa: N802 (Celery's name)
        """The result of a task by its id."""
        return AsyncResult(id, self.backend, take_back=self._take_back, kin=self._kin)

    def _take_back(self, record: Record) -> bool:
        """Take a delayed message out of its queue; False where it has left already."""
        queue, _, handle = (record.scheduled or "").partition(" ")
        try:
            return not self.broker.unschedule(queue, [handle])
        except (ServiceError, ConfigurationError) as error:
            log.warning("task %s stays scheduled, and will be dropped then: %s", record.id, error)
            return False

    def _kin(self, outlines: str) -> list[Any]:
        return restored(outlines, self._made)

    def _result(self, task_id: str, task: Task[..., R]) -> AsyncResult[R]:
        return AsyncResult(
            task_id,
            self.backend,
            restore=task.arguments.restore,
            task=task.name,
            take_back=self._take_back,
            kin=self._kin,
        )

    # ---- eager

    def apply(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[R]:
        """Run a task here, through the same executor as a worker; retries follow at once."""
        message = self._message(task, options, args, kwargs)
        executor = self.executor(eager=True)
        while True:
            delivery = Delivery(
                queue=message.queue, id=message.id, body=b"", receipt=None, attempts=1, lease=0.0
            )
            settlement = executor.run(Job(delivery=delivery, message=message))
            if isinstance(settlement.error, Replaced):
                return self._in_place_of(settlement.error)
            if settlement.resend is None or settlement.state is not State.RETRY:
                break
            message = settlement.resend
        ended = State.SUCCESS if settlement.action is Action.ACK else State.REJECTED
        record = settlement.record or Record(
            id=message.id, state=settlement.state or ended, error=settlement.reason or None
        )
        if settlement.error is not None:
            return EagerResult(record, error=settlement.error)
        return EagerResult(record, restore=task.arguments.restore)

    def _in_place_of(self, replaced: Replaced) -> EagerResult[Any]:
        result = run_eagerly(cast("Node[Any]", replaced.node), (), self._run_eagerly)
        if isinstance(result, EagerResult):
            return result
        value = dump_value(result.get())
        return EagerResult(Record(id=new_id(), state=State.SUCCESS, value=value))

    def _eager(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[R]:
        result = self.apply(task, options, args, kwargs)
        if self.conf.task_eager_propagates:
            result.get()
        return result

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
        return run_eagerly(node.clone(args, kwargs), (), self._run_eagerly)

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the chord of the running task; what `self.add_to_chord` does."""
        return self.workflows.add_to_chord(node)

    def restore_group(self, id: str) -> GroupResult[Any] | None:
        """The results of a group that was saved; None if there is none, or not any more."""
        backend = self.AsyncResult(id).backend
        return restore_group(id, backend, self._made)

    def _start_one(
        self, node: Signature[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """A single call: checked against its task, as `apply_async` does."""
        node = node.clone(args, kwargs)
        return self.send_task(node.task, node.args, node.kwargs, **cast("Any", node.options))

    def _run_eagerly(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> EagerResult[Any]:
        task = self.tasks.get(name) or self._builtin.get(name)
        if task is None:
            raise ConfigurationError(f"task {name!r} is not registered, so it cannot run eagerly")
        return self.apply(task, Options.of(cast("CallOptions", options)), args, kwargs)

    @property
    def joins(self) -> Joins | None:
        """What joins the members of chords; None without a result backend."""
        return self.workflows.joins

    @cached_property
    def workflows(self) -> Workflows:
        """What this app does with signatures, chains, groups and chords."""
        planner = Planner(
            self._envelopes.planned,
            expires=lambda: self.conf.result_expires,
            takes_request=lambda name: name in self.tasks and self.tasks[name].arguments.takes(2),
            clock=self.now,
        )
        return Workflows(
            planner=planner,
            publish=lambda messages: self._post(messages, named=True),
            make=self._made,
            broker=lambda: self.broker,
            backend=lambda: self.backend,
            max_depth=lambda: self.conf.max_depth,
            checks=Checks(
                arguments=lambda name: self.tasks[name].arguments if name in self.tasks else None,
                max_fan_out=lambda: self.conf.max_fan_out,
            ),
        )

    def _made(self, id: str, name: str) -> AsyncResult[Any]:
        task = self.tasks.get(name)
        return self.AsyncResult(id) if task is None else self._result(id, task)

    # ---- workers

    @cached_property
    def control(self) -> Control:
        """Looks into live workers and tells them what to do, under Celery's names."""
        return Control(lambda: self.backend, self.AsyncResult)

    # ---- what it stands on

    def now(self) -> float:
        """The time that this app goes by, in epoch seconds; tests can set it."""
        return self.services.clock()

    def executor(
        self,
        *,
        hostname: str = "",
        eager: bool = False,
        run_async: Callable[[Coroutine[Any, Any, Any]], Any] | None = None,
        stop_at_hard_limit: bool = False,
    ) -> Executor:
        """What runs this app's deliveries; for workers, function handlers and tests."""
        more = {} if run_async is None else {"run_async": run_async}
        return Executor(
            tasks=ChainMap(self.tasks, self._builtin),
            backend=(lambda: None) if eager else (lambda: self.backend),
            limits=lambda queue: _EAGER if eager else self.broker.limits(queue),
            conf=self.conf,
            planner=self.workflows.planner,
            gather=self.workflows.gather,
            middleware=self.middleware,
            hostname=hostname,
            is_eager=eager,
            codec=self.codec,
            stop_at_hard_limit=stop_at_hard_limit or eager,
            clock=self.now,
            **more,
        )

    @property
    def codec(self) -> Codec:
        """How this app writes and reads messages, as its settings say."""
        return Codec.of(self.conf, self.name, clock=self.now)

    @property
    def broker(self) -> Broker:
        """The broker, opened at its first use. Raises `ConfigurationError`."""
        with self._lock:
            if self._broker is None:
                url = self.conf.broker
                keeps = self.conf.backend_url is not None
                self._broker = Broker(
                    self.services.open_broker(url),
                    url=url,
                    publish_retries=self.conf.publish_retries,
                    parking=Parking(self._parking_backend) if keeps else None,
                    codec=self.codec,
                    announce=lifecycle.announced,
                    published=lifecycle.published,
                    clock=self.now,
                    sleep=self.services.sleep,
                )
            return self._broker

    def _parking_backend(self) -> Backend:
        backend = self.backend
        assert backend is not None  # a broker without one has no parking
        return backend

    @property
    def backend(self) -> Backend | None:
        """The result store, opened at its first use; None when the app has none."""
        with self._lock:
            url = self.conf.backend_url
            if self._backend is None and url is not None:
                self._backend = Backend(
                    self.services.open_backend(url),
                    url=url,
                    expires=self.conf.result_expires,
                    history=self._history(),
                    clock=self.now,
                )
            return self._backend

    def _history(self) -> History | None:
        conf = self.conf
        if conf.task_events is Level.NONE:
            return None
        return History(
            conf.task_events,
            expires=conf.task_events_expires,
            arguments=conf.task_events_args,
            max_body=conf.max_body,
            clock=self.now,
        )

    def close(self) -> None:
        """Close the broker and the backend; a later use opens them again."""
        with self._lock:
            if self._broker is not None:
                self._broker.close()
            if self._backend is not None:
                self._backend.close()
            self._broker = self._backend = None


def _class_options(base: type[Task[..., Any]]) -> dict[str, Any]:
    """The options that a task's class has as attributes, for all tasks of that class."""
    kinds: list[type[Any]] = [kind for kind in reversed(base.__mro__) if kind is not Task]
    found = {name: value for kind in kinds for name, value in vars(kind).items()}
    return {name: value for name, value in found.items() if name in _CLASS_OPTIONS}


# What can be said of many tasks at once.
_CLASS_OPTIONS = TaskOptions.__annotations__.keys() - {"name", "base", "aliases"}


class _Decorator(Protocol):
    """The types of `@app.task(...)`: parameters and result of the function are kept."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any: ...


class _Periodic(Protocol):
    """The types of `@app.periodic(...)`, above `@app.task` or a bare function."""

    @overload
    def __call__(self, function: Task[P, R]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R]: ...
    def __call__(self, function: Any) -> Any: ...


class _BoundDecorator(Protocol):
    """The same with `bind=True`: the first parameter is the task and is not passed by callers."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[S, P], R]) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any: ...


def _main_module() -> str:
    """The importable name of the program that was started, so that a worker finds its tasks."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return file.rpartition("/")[2].removesuffix(".py") if file else "__main__"
