"""Makes the messages of calls: the task's own options, the call's, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from functools import cache
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from cloudq.clock import Clock, real_time
from cloudq.codec import to_wire
from cloudq.codecs.serializers import PICKLE, pickled
from cloudq.errors import InvalidArguments
from cloudq.ids import new_id
from cloudq.message import CELERY, TaskMessage
from cloudq.priorities import queue_for
from cloudq.routing import Router
from cloudq.settings import Settings
from cloudq.task import CallOptions, Options, Task
from cloudq.telemetry.tracing import in_span, open_tracing

_PLAIN = ("json", "cloudq")


@cache
def zone_of(name: str) -> ZoneInfo:
    """The time zone of this name."""
    return ZoneInfo(name)


class Envelopes:
    """Envelopes of one app's calls. `tasks` may grow; other names are sent as they are."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        conf: Callable[[], Settings],
        clock: Clock = real_time,
    ) -> None:
        self._tasks = tasks
        self._conf = conf
        self._clock = clock
        self._router = Router(None, ())

    @property
    def router(self) -> Router:
        """The rules of the setting `task_routes`, read anew when that has changed."""
        source = self._conf().task_routes
        if source is not self._router.source:
            self._router = Router(source, CallOptions.__annotations__)
        return self._router

    def written(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
    ) -> tuple[list[Any], dict[str, Any]]:
        """Arguments as wire values, as the call's serializer writes them. Raises `EncodeError`."""
        serializer = _serializer(self._conf(), self._tasks.get(name), options)
        write = pickled if serializer == PICKLE else to_wire
        named = {key: write(value) for key, value in kwargs.items()} if kwargs else {}
        return [write(arg) for arg in args], named

    def planned(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        **fields: Any,
    ) -> TaskMessage:
        """The message of a call out of a workflow, whose id others know: it is not `unique`."""
        if options.get("unique_key") is not None:
            raise InvalidArguments(
                f"{name}: unique_key is for single calls: a workflow waits for each of its own"
            )
        return self.make(name, args, kwargs, Options.of(options), **fields)

    def make(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Options,
        **fields: Any,
    ) -> TaskMessage:
        """The message of a call, its arguments as wire values. Raises `InvalidArguments`.

        Raises `ConfigurationError` for a priority on a queue that has none.
        """
        now = self._clock()
        task = self._tasks.get(name)
        expires = task.policy.expires if task else None
        own = task.policy.queue if task else None
        conf = self._conf()
        if conf.task_routes is not None:
            given = _given(options)
            if own is not None:
                given.setdefault("queue", own)
            # What the call or the task says stands above the route.
            options = Options(**{**self.router.route(name, args, kwargs, given, task), **given})
        queue = options.queue or own or conf.task_default_queue
        fields |= _form(conf, task, queue, options)
        if fields.get("protocol") == CELERY and (fields.get("slot") or fields.get("gather")):
            raise InvalidArguments(
                f"{name}: a chord cannot have tasks in Celery's protocol, whose workers do not "
                "know its join: send them to a queue that is not in queue_produce"
            )
        priority = options.priority
        if priority is None and task is not None:
            priority = task.policy.priority
        if priority is not None:
            queue = queue_for(queue, priority, conf.priority_queues)
        fields |= _carried(options)
        if options.countdown or options.eta is not None:
            fields["not_before"] = options.not_before(now, zone_of(conf.timezone))
        if options.expires is not None or expires is not None:
            fields["expires"] = options.expiry(now, expires, zone_of(conf.timezone))
        try:
            message = TaskMessage(
                id=options.task_id or new_id(),
                task=name,
                args=list(args),
                kwargs=dict(kwargs),
                queue=queue,
                sent_at=round(now, 3),
                **fields,
            )
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InvalidArguments(f"{name}: {place}: {first['msg']}") from error
        tracing = open_tracing(conf.tracing)
        return message if tracing is None else in_span(tracing, message)


def _serializer(conf: Settings, task: Task[..., Any] | None, options: Options) -> str:
    own = task.policy.serializer if task else None
    return options.serializer or own or conf.task_serializer


def _form(
    conf: Settings, task: Task[..., Any] | None, queue: str, options: Options
) -> dict[str, str]:
    """Serializer, compression and protocol of a call, where they are not the plain ones."""
    zipped = options.compression or (task and task.policy.compression) or conf.task_compression
    form = {
        "serializer": _serializer(conf, task, options),
        "compression": zipped,
        "protocol": options.protocol or conf.queue_produce.get(queue),
    }
    return {key: value for key, value in form.items() if value and value not in _PLAIN}


# What a call's options say that its message says as well.
_CARRIED = (
    "headers",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "group_key",
    "dedup_key",
    "idempotency_key",
    "shadow",
    "unique_key",
)
_values = attrgetter(*_CARRIED)


def _carried(options: Options) -> dict[str, Any]:
    named = zip(_CARRIED, _values(options), strict=True)
    return {name: value for name, value in named if value is not None}


def _given(options: Options) -> dict[str, Any]:
    named = {field.name: getattr(options, field.name) for field in fields_of(options)}
    return {name: value for name, value in named.items() if value is not None}
