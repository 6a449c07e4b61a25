"""Builds the messages of calls from the options of task and call, and from the calling task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cloudq.errors import InvalidArguments
from cloudq.messages.body import arguments, decode, encode, is_time
from cloudq.messages.message import CELERY, TaskMessage, WrongField, from_given_fields
from cloudq.messages.serializers import PICKLE, pickled
from cloudq.messages.values import from_wire, to_wire
from cloudq.publishing.numbers import Numbers
from cloudq.publishing.routing import Router, own_options
from cloudq.publishing.tracing import in_span, open_tracing
from cloudq.runtime import Runtime
from cloudq.settings import Settings
from cloudq.tasks.call_options import (
    CALLER_ONLY,
    NO_OPTIONS,
    CallOptions,
    Options,
    check_time_limits,
)
from cloudq.tasks.limits.keys import Later
from cloudq.tasks.limits.rules import key_text
from cloudq.tasks.options import Policy
from cloudq.tasks.priorities import queue_for
from cloudq.tasks.request import Request, current_request
from cloudq.tasks.signature import Signature
from cloudq.tasks.task import Task

_PLAIN = ("json", "cloudq")
_NAMES = {str}
_PLAIN_FIELDS = frozenset({"id", "task", "args", "kwargs", "queue", "sent_at"})


class MessageBuilder:
    """Builds the messages of one app's calls. `tasks` may grow; other names are sent unchecked."""

    is_plain: Callable[[str], bool] | None = None  # of a queue whose calls have no priority
    as_sent: Callable[..., Any] | None = None  # changes the calls of workflows

    def __init__(self, runtime: Runtime, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._router = Router(None, ())
        self._plain: dict[str, tuple[Policy, str]] = {}

    @property
    def router(self) -> Router:
        """The rules of the setting `task_routes`, read again when that has changed."""
        source = self._runtime.conf.task_routes
        if source is not self._router.source:
            self._router = Router(source, CallOptions.__annotations__.keys() - CALLER_ONLY)
        return self._router

    def of_call(
        self,
        task: Task[..., Any],
        options: Options,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        numbers: Numbers | None = None,
    ) -> TaskMessage:
        """Build the message of a registered task's call, in a bundle as `numbers` say.

        Raises as `arguments.check`.
        """
        plain = self._of_plain(task, args, kwargs, numbers) if options is NO_OPTIONS else None
        if plain is not None:
            return plain
        args, kwargs = self._checked(task, options, args, kwargs)
        if options.unique_key is None and (key := _unique_key(task, args, kwargs)) is not None:
            options = replace(options, unique_key=key)
        keys = task.policy.keys
        if keys is not None:
            own = {"group_key": options.group_key, "dedup_key": options.dedup_key}
            options = replace(options, **keys.missing(task.arguments, own, args, kwargs))
        message = self.of_name(task.name, options, args, kwargs)
        return message if numbers is None else numbers.numbered(message, options)

    def _of_plain(
        self,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        numbers: Numbers | None,
    ) -> TaskMessage | None:
        """Build the message of a call of which nothing but its arguments is special.

        Its fields are those of the first such call, but for arguments, id and time; those are
        checked or made here, so that nothing is left to validate. None for other calls.
        """
        conf, policy, name = self._runtime.conf, task.policy, task.name
        queue = policy.queue or conf.task_default_queue
        if (
            current_request.get() is not None
            or conf.task_routes is not None
            or conf.tracing
            or conf.queue_produce
            or conf.task_serializer not in _PLAIN
            or conf.task_compression
        ):
            return None
        known = self._plain.get(name)
        if known is None or known[0] is not policy or known[1] != queue:
            first = self._first_plain(task, queue, args, kwargs)
            return first if first is None or numbers is None else numbers.numbered(first)
        args, kwargs = task.arguments.sendable(args, kwargs)
        now = int(self._runtime.clock() * 1000 + 0.5) / 1000  # `round` takes ten times as long
        if not is_time(now) or (kwargs and set(map(type, kwargs)) != _NAMES):
            return None
        id = None if numbers is None else numbers.id_of(name, (queue, None))
        return from_given_fields(
            {
                "id": id or self._runtime.new_id(),
                "task": name,
                "args": [to_wire(arg) for arg in args],
                "kwargs": {key: to_wire(value) for key, value in kwargs.items()} if kwargs else {},
                "queue": queue,
                "sent_at": now,
            },
            _PLAIN_FIELDS,
        )

    def _first_plain(
        self, task: Task[..., Any], queue: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskMessage | None:
        """Build and validate the first message of plain calls; None for a task of other calls."""
        policy, name = task.policy, task.name
        special = (policy.throttle, policy.keys, policy.expires, policy.priority)
        special = (*special, policy.compression, policy.serializer)
        if any(part is not None for part in special) or self._tasks.get(name) is not task:
            return None
        args, kwargs = task.arguments.sendable(args, kwargs)
        message = self.of_name(name, NO_OPTIONS, args, kwargs)
        if message.model_fields_set == _PLAIN_FIELDS and message.queue == queue:
            self._plain[name] = policy, queue
        return message

    def unique_key(self, call: Signature[Any]) -> str | None:
        """Make the key of a call of a `unique` task; None for another's. Raises as `of_call`."""
        task = self._tasks.get(call.task)
        if task is None or task.policy.throttle is None:
            return None
        options: Any = call.options
        checked = self._checked(task, Options.of(options), call.args, call.kwargs)
        return _unique_key(task, *checked)

    def _checked(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a call, validated. Raises `InvalidArguments`, `EncodeError`."""
        if _serializer(self._runtime.conf, task, options) == PICKLE:  # it brings back anything
            return task.arguments.check(args, kwargs)
        return task.arguments.sendable(args, kwargs)

    def of_name(
        self, name: str, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskMessage:
        """Build the message of a call by its task's name, as a child of the running task."""
        parent = current_request.get()
        options = self.routed(name, args, kwargs, options)
        written = self.written(name, args, kwargs, options)
        if parent is None:
            return self.make(name, *written, options)
        return self.make(
            name,
            *written,
            options,
            root=parent.root_id,
            parent=parent.id,
            depth=depth_below(parent, self._runtime.conf.max_depth),
        )

    def written(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
    ) -> tuple[list[Any], dict[str, Any]]:
        """Write arguments as wire values for the call's serializer. Raises `EncodeError`."""
        serializer = _serializer(self._runtime.conf, self._tasks.get(name), options)
        write = pickled if serializer == PICKLE else to_wire
        named = {key: write(value) for key, value in kwargs.items()} if kwargs else {}
        return [write(arg) for arg in args], named

    def copied(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Check and write a call's arguments, and read them again, as its worker would."""
        args, kwargs = self._checked(task, options, args, kwargs)
        options = self.routed(task.name, args, kwargs, options)
        written = self.written(task.name, args, kwargs, options)
        body = encode(self.make(task.name, *written, options))
        return task.arguments.read(*arguments(decode(body, limit=len(body))))

    def planned(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        **fields: Any,
    ) -> TaskMessage:
        """Build the message of a workflow's call; its id is fixed, so it cannot be `unique`."""
        _refuse_unique(name, options)
        task = self._tasks.get(name)
        if task is not None and task.policy.keys is not None:
            gathers = fields.get("gather") is not None
            options = {**options, **_group(task, args, kwargs, options, gathers=gathers)}
        routed = self.routed(name, args, kwargs, Options.of(options))
        return self.make(name, args, kwargs, routed, **fields)

    def check_options(self, name: str, options: CallOptions) -> None:
        """Refuse the options that the message of a workflow's later call would be refused for.

        Raises `TypeError`, `InvalidArguments` and `ConfigurationError`. Routes are not asked, since
        they are given the arguments, which are not known yet.
        """
        _refuse_unique(name, options)
        checked = Options.of(options)
        if self._runtime.conf.task_routes is not None:  # another queue may have that priority
            checked = replace(checked, priority=None)
        self._message(name, (), {}, checked, {})

    def routed(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
    ) -> Options:
        """Add the options of a call's route; those of the call and of the task override them."""
        if self._runtime.conf.task_routes is None:
            return options
        task = self._tasks.get(name)
        given: dict[str, Any] = {**options.given()}
        if task is not None:
            given = {**own_options(task), **given}
        return Options(**{**self.router.route(name, args, kwargs, given, task), **given})

    def queue_of(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
    ) -> str:
        """Return the queue that a call is sent to, by its options, its task, routes and settings.

        Raises `ConfigurationError` for a priority on a queue that has none.
        """
        task = self._tasks.get(name)
        options = self.routed(name, args, kwargs, options)
        return self._level(task, options, self._queue(task, options))

    def _queue(self, task: Task[..., Any] | None, options: Options) -> str:
        own = task.policy.queue if task else None
        return options.queue or own or self._runtime.conf.task_default_queue

    def _level(self, task: Task[..., Any] | None, options: Options, queue: str) -> str:
        priority = options.priority
        if priority is None and task is not None:
            priority = task.policy.priority
        if priority is None or (self.is_plain is not None and self.is_plain(queue)):
            return queue
        return queue_for(queue, priority, self._runtime.conf.priority_queues)

    def make(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Options,
        **fields: Any,
    ) -> TaskMessage:
        """Build the message of a routed call from wire values. Raises as `queue_of`."""
        message = self._message(name, args, kwargs, options, fields)
        tracing = open_tracing(self._runtime.conf.tracing)
        return message if tracing is None else in_span(tracing, message)

    def _message(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Options,
        fields: dict[str, Any],
    ) -> TaskMessage:
        now = self._runtime.clock()
        task = self._tasks.get(name)
        expires = task.policy.expires if task else None
        conf = self._runtime.conf
        queue = self._queue(task, options)
        fields |= _form(conf, task, queue, options)
        if fields.get("protocol") is not None:  # which has no field for it
            fields["call"] = None
        if fields.get("protocol") == CELERY and (fields.get("slot") or fields.get("gather")):
            raise InvalidArguments(
                f"{name}: a chord cannot have tasks in Celery's protocol, whose workers do not "
                "know its join: send them to a queue that is not in queue_produce"
            )
        queue = self._level(task, options, queue)
        if options is not NO_OPTIONS:
            fields |= options.in_message()
            _check_limits(conf, task, options)
        if options.countdown or options.eta is not None:
            fields["not_before"] = options.not_before(now, self._runtime.zone)
        if options.expires is not None or expires is not None:
            fields["expires"] = options.expiry(now, expires, self._runtime.zone)
        try:
            return TaskMessage(
                id=options.task_id or self._runtime.new_id(),
                task=name,
                args=list(args),
                kwargs=dict(kwargs),
                queue=queue,
                sent_at=round(now, 3),
                **fields,
            )
        except WrongField as error:
            raise InvalidArguments(f"{name}: {error.place}: {error.why}") from error


def _unique_key(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    throttle = task.policy.throttle
    if throttle is None or not throttle.unique:
        return None
    return key_text(throttle.unique, task.arguments, args, kwargs)


def _refuse_unique(name: str, options: CallOptions) -> None:
    if options.get("unique_key") is not None:
        raise InvalidArguments(
            f"{name}: unique_key is for single calls: a workflow waits for each of its own"
        )


def depth_below(parent: Request | None, most: int) -> int:
    """Return how deep a call made within this one is. Raises `RecursionError`."""
    depth = parent.depth + 1 if parent else 0
    if depth > most:
        raise too_deep(most)
    return depth


def too_deep(most: int) -> RecursionError:
    """Make the error of tasks that start each other, or replace themselves, for ever."""
    return RecursionError(
        f"tasks have called each other {most} deep: does one call itself "
        "without an end? the setting max_depth allows more"
    )


def _serializer(conf: Settings, task: Task[..., Any] | None, options: Options) -> str:
    own = task.policy.serializer if task else None
    return options.serializer or own or conf.task_serializer


def _check_limits(conf: Settings, task: Task[..., Any] | None, options: Options) -> None:
    """Refuse a call's own soft limit that is not below its hard one. Raises `InvalidArguments`."""
    if options.soft_time_limit is None and options.time_limit is None:
        return
    policy = task.policy if task is not None else None
    soft = options.soft_time_limit or (policy and policy.soft_time_limit)
    hard = options.time_limit or (policy and policy.time_limit)
    check_time_limits(soft or conf.task_soft_time_limit, hard or conf.task_time_limit)


def _form(
    conf: Settings, task: Task[..., Any] | None, queue: str, options: Options
) -> dict[str, str]:
    """Return the serializer, compression and protocol of a call that are not the defaults."""
    zipped = options.compression or (task and task.policy.compression) or conf.task_compression
    form = {
        "serializer": _serializer(conf, task, options),
        "compression": zipped,
        "protocol": options.protocol or conf.queue_produce.get(queue),
    }
    return {key: value for key, value in form.items() if value and value not in _PLAIN}


def _group(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: CallOptions,
    *,
    gathers: bool,
) -> CallOptions:
    """Make the task's own group key for a workflow's call, from arguments as wire values.

    No `dedup_key` is made, since a join would wait for a member that the broker drops.
    """
    keys = task.policy.keys
    assert keys is not None  # others are not asked for
    try:
        plain = [from_wire(arg) for arg in args]
        named = {key: from_wire(value) for key, value in kwargs.items()}
        plain = [Later(), *plain] if gathers else plain
        checked, given = (plain, named) if gathers else task.arguments.read(plain, named)
        task.arguments.fit(checked, given)
    except InvalidArguments:
        return {}  # it will fail of that by itself, when it runs
    own: dict[str, Any] = {"group_key": options.get("group_key"), "dedup_key": ""}
    made: Any = keys.missing(task.arguments, own, checked, given)
    return made
