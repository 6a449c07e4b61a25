"""Azure Functions that run an app's tasks: `register(function_app, app)`.

The Python worker has no way to settle a message itself: the host completes what a function
returns for, and abandons what it raises for, a whole batch at a time.
"""

# azure-functions is typed in part only.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, List, Literal, cast  # noqa: UP035 (see _takes_many)

from azure.functions import Blueprint, FunctionApp, ServiceBusMessage
from azure.functions.timer import TimerRequest

from cloudq.app import CloudQ
from cloudq.driver import Delivery, is_ordered
from cloudq.driver.loader import parse
from cloudq.driver.log import Log
from cloudq.errors import CloudQError, ConfigurationError
from cloudq.execution.deadline import Deadline
from cloudq.execution.direct_call import firing_id, once
from cloudq.execution.executor import Executor
from cloudq.execution.invocation import Invocation, NotSettled
from cloudq.messages.message import new_id
from cloudq.tasks.priorities import queues_for

log = Log("cloudq.functions")

Cardinality = Literal["one", "many"]

# The host may fire a moment before the time that it fires for.
_EARLY = 5.0
# After this many seconds another firing may send the task of one that died.
_SENDING = 60.0
# The number of retries of a firing whose task was not sent, and the pause (hh:mm:ss).
_TRIES = "10"
_TRY_AFTER = "00:00:15"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A task that a timer trigger sends to its queue.

    `schedule` is Azure's: six fields with the seconds first, in UTC unless the function app says
    otherwise, or the name of an app setting as `%NAME%`. With `late=False` a firing that the
    host makes up for after its time (it was down, say) is left out.
    """

    schedule: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    queue: str | None = None
    late: bool = True


def register(
    function_app: FunctionApp | Blueprint,
    app: CloudQ,
    *,
    queues: Sequence[str] | None = None,
    connection: str = "ServiceBusConnection",
    cardinality: Cardinality = "one",
    timers: Mapping[str, Timer | tuple[str, str]] | None = None,
    timeout: float = 300.0,
    reserve: float = 5.0,
) -> None:
    """Add a Service Bus trigger for each queue, and a timer trigger for each of `timers`.

    `queues` left out are `app.queues()` and those of `timers`; one whose name ends in `.fifo`
    has sessions. `connection` names the app setting that holds the Service Bus connection.
    A timer is its name and a `Timer`, or the pair of a schedule and a task's name.

    With `cardinality="one"` a message is completed when its function returns, and abandoned when
    it raises `NotSettled`. With "many" the host takes one answer for a whole batch, so what has
    to come back is sent again as a copy, and the batch is completed; only when copies cannot be
    sent does all of it come back, and what was done is known by its record. Queues with sessions
    take "one" alone, since a copy would lose its place.

    `timeout` is what an invocation has, in seconds: the shorter of the host's functionTimeout
    and maxAutoLockRenewalDuration, whose defaults are 300 s. A batch of many ends before the
    first of its locks does, since the host renews none of them. No task is started with less
    than its hard time limit left, or `reserve` seconds if it has none. Modules in `include` are
    imported here. Raises `ConfigurationError`.
    """
    if timeout <= 0 or reserve < 0:
        raise ConfigurationError(f"timeout={timeout} and reserve={reserve}: over 0, at least 0")
    app.load()
    given = {name: _timer(name, timer) for name, timer in (timers or {}).items()}
    named = list(dict.fromkeys(_queues_of(app, given.values()) if queues is None else queues))
    _check(cardinality, named, given)
    executor = app.executor(
        hostname=os.environ.get("WEBSITE_INSTANCE_ID") or "function", stop_at_hard_limit=True
    )
    prefix = _prefix(app)
    for queue in named:
        source = _Queue(app, executor, queue, timeout=timeout, reserve=reserve)
        _add_queue(function_app, source, prefix + queue, connection, cardinality)
    for name, timer in given.items():
        _add_timer(function_app, app, name, timer)


def _check(cardinality: str, queues: Sequence[str], timers: Mapping[str, Timer]) -> None:
    """Raise `ConfigurationError` for functions that the host cannot have."""
    if cardinality not in ("one", "many"):
        raise ConfigurationError(f'cardinality={cardinality!r}: "one" or "many"')
    functions = [_function_name(name) for name in [*queues, *timers]]
    twice = sorted({name for name in functions if functions.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"two functions would be named {twice[0]}: rename a queue or timer"
        )
    ordered = [queue for queue in queues if is_ordered(queue)]
    if cardinality == "many" and ordered:
        raise ConfigurationError(
            f"queue {ordered[0]!r} has sessions, and a batch has one answer for all: "
            'register it by itself with cardinality="one"'
        )


def _add_queue(
    function_app: FunctionApp | Blueprint,
    source: _Queue,
    name: str,
    connection: str,
    cardinality: Cardinality,
) -> None:
    """Add the trigger of one queue; `name` is the queue's name in the namespace."""
    trigger = function_app.service_bus_queue_trigger(
        arg_name="message" if cardinality == "one" else "messages",
        queue_name=name,
        connection=connection,
        cardinality=cardinality,
        is_sessions_enabled=is_ordered(source.queue) or None,
        # By default the host turns a body into text, and parses it if it looks like JSON.
        data_type="binary",
    )
    run = _takes_one(source) if cardinality == "one" else _takes_many(source)
    function_app.function_name(_function_name(source.queue))(trigger(run))


def _add_timer(function_app: FunctionApp | Blueprint, app: CloudQ, name: str, timer: Timer) -> None:
    """Add the trigger of one timer."""
    trigger = function_app.timer_trigger(arg_name="timer", schedule=timer.schedule)
    # The host retries a failed firing only if told to.
    retry = function_app.retry(
        strategy="fixed_delay", max_retry_count=_TRIES, delay_interval=_TRY_AFTER
    )
    named_function = function_app.function_name(_function_name(name))
    named_function(retry(trigger(_fires(app, name, timer))))


def _queues_of(app: CloudQ, timers: Iterable[Timer]) -> list[str]:
    own = [timer.queue for timer in timers if timer.queue]
    return [*app.queues(), *queues_for(own, app.conf.priority_queues)]


def _prefix(app: CloudQ) -> str:
    """Return the prefix of the queues' names in the namespace, from the broker's URL."""
    address = parse(app.conf.broker)
    return address.options.get("prefix", "") if address.scheme == "servicebus" else ""


def _function_name(name: str) -> str:
    return f"cloudq_{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"


# ---- queues


class _Queue:
    """Runs the messages that the host takes from one queue. Safe to use from many threads."""

    def __init__(
        self, app: CloudQ, executor: Executor, queue: str, *, timeout: float, reserve: float
    ) -> None:
        self._app = app
        self._executor = executor
        self.queue = queue
        self._timeout = timeout
        self._reserve = reserve

    def one(self, message: ServiceBusMessage) -> None:
        """Run a message; raise `NotSettled` if it must come back."""
        with self._invocation(self._timeout) as invocation:
            kept = invocation.run([_delivery(message, self.queue, self._timeout)])
        if kept:
            raise NotSettled(f"message {message.message_id} comes back: {kept[0][1].reason}")

    def many(self, messages: Sequence[ServiceBusMessage]) -> None:
        """Run messages and send copies of those that must come back; raise if all must."""
        locks = [message.locked_until for message in messages if message.locked_until]
        left = min([lock.timestamp() - time.time() for lock in locks], default=self._timeout)
        # A lock that seems to have ended is due to a clock that is off: ignore it.
        lasts = min(left, self._timeout) if left > 0 else self._timeout
        deliveries = [_delivery(message, self.queue, lasts) for message in messages]
        with self._invocation(lasts) as invocation:
            kept = invocation.run(deliveries)
            try:
                invocation.resend(kept)
            except CloudQError as error:
                raise NotSettled(f"all {len(messages)} messages come back: {error}") from error

    def _invocation(self, lasts: float) -> Invocation:
        return Invocation(
            self._executor,
            deadline=Deadline.after(lasts, reserve=self._reserve),
            log=log,
        )


def _delivery(message: ServiceBusMessage, queue: str, lease: float) -> Delivery:
    """Return the message as the driver would have received it, but locked by the host."""
    sent = message.enqueued_time_utc
    count = message.delivery_count
    return Delivery(
        queue=queue,
        id=str(message.message_id or message.sequence_number),  # a stranger's has none
        body=message.get_body(),
        receipt=message.lock_token,
        attempts=max(1, int(count or 1)),  # the host counts from 1, AMQP from 0
        lease=lease,
        group=message.session_id,
        sent_at=sent.timestamp() if sent else None,
    )


def _takes_one(source: _Queue) -> Callable[[ServiceBusMessage], None]:
    # The host's Python worker needs a function, and reads its annotations.
    def run(message: ServiceBusMessage) -> None:
        source.one(message)

    return run


def _takes_many(source: _Queue) -> Callable[[list[ServiceBusMessage]], None]:
    def run(messages: List[ServiceBusMessage]) -> None:  # noqa: UP006 (all that the SDK knows)
        source.many(messages)

    return run


# ---- timers


def _timer(name: str, timer: Timer | tuple[str, str]) -> Timer:
    if not isinstance(timer, Timer):
        schedule, task = timer
        timer = Timer(schedule=schedule, task=task)
    setting = timer.schedule.startswith("%") and timer.schedule.endswith("%")
    if not setting and len(timer.schedule.split()) != 6:
        raise ConfigurationError(
            f"timer {name!r}: {timer.schedule!r} has not the six fields of Azure's cron: "
            "{second} {minute} {hour} {day} {month} {day of week}"
        )
    return timer


def _fires(app: CloudQ, name: str, plan: Timer) -> Callable[[TimerRequest], None]:
    def run(timer: TimerRequest) -> None:
        if timer.past_due and not plan.late:
            log.warning("timer %s: a firing that is past due is left out", name)
            return
        slot = _slot(cast("Mapping[str, Any]", timer.schedule_status))
        if slot is None:
            _send(app, plan, new_id())
            return
        firing = f"timer/{name}@{slot}"
        id, backend = firing_id(firing), app.backend
        if backend is None:
            _send(app, plan, id)
        else:
            # The request is named by the firing: the host never runs two at a time, and one that
            # was interrupted must not block its repetition.
            once(backend, firing, id, _SENDING, partial(_send, app, plan, id))

    return run


def _send(app: CloudQ, plan: Timer, id: str) -> str:
    options: dict[str, Any] = {"task_id": id}
    if plan.queue is not None:
        options["queue"] = plan.queue
    return app.send_task(plan.task, plan.args, plan.kwargs, **options).id


def _slot(status: Mapping[str, Any]) -> str | None:
    """Return the time that a firing is for: the next one in the host's notes until it is done.

    None where it notes nothing (a schedule more often than each minute), and for a firing by
    hand or at the start of the host, whose time is none of the schedule's.
    """
    at = _noted(status.get("Next"))
    if at is None or at.timestamp() > time.time() + _EARLY:
        return None
    return at.replace(microsecond=0).isoformat()


def _noted(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    # Before the first firing, .NET gives the year 1; the last year has no time in other zones.
    if at is None or not 2000 <= at.year < 9999:
        return None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
