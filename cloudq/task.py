"""A task: a named function with options, typed by its own parameters and result."""

from __future__ import annotations

import asyncio
import difflib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import (
    Any,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
)

from cloudq.arguments import Arguments
from cloudq.backend import Backend
from cloudq.canvas.nodes import Canvas, Node, Signature, group
from cloudq.codec import to_wire
from cloudq.codecs.codec import unknown_form
from cloudq.commit_hooks import on_commit
from cloudq.errors import ConfigurationError, InvalidArguments, MaxRetriesExceeded, Replaced, Retry
from cloudq.hooks import HOOKS, Hooks
from cloudq.hosting import Hosting, hosting_of
from cloudq.ids import new_id
from cloudq.middleware import Request, current_request
from cloudq.priorities import check_priority
from cloudq.progress import Continued, load, recall, remember, save
from cloudq.result import AsyncResult, EagerResult
from cloudq.throttling.rules import KeyRule, Throttle, throttle_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Exceptions = tuple[type[BaseException], ...]

# A century: the wire's times end with the year 9999.
LONGEST_DELAY = 36_525 * 86_400.0
# What is kept for longer outlives the code that it is a call of.
_LONGEST_WAIT = 10 * 365.25 * 86_400.0


class TaskOptions(TypedDict, total=False):
    """What `@app.task(...)` takes. Times are in seconds; left out: the app's setting."""

    name: str
    queue: str
    priority: int
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: Iterable[type[BaseException]]
    dont_autoretry_for: Iterable[type[BaseException]]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    time_limit: float | None
    soft_time_limit: float | None
    expires: float | None
    ignore_result: bool
    track_started: bool
    idempotent: bool | Callable[..., str]
    dead_letter: bool
    rate_limit: str | float | None
    global_rate_limit: str | float | None
    concurrency: int | KeyRule | tuple[KeyRule, int]
    unique: bool | KeyRule
    unique_for: float
    pydantic: bool
    base: type[Task[..., Any]]
    aliases: Iterable[str]
    retry_kwargs: Mapping[str, Any]
    serializer: str
    compression: str
    # Of the function that runs it: see `Hosting`. (`concurrency` is of the task, everywhere.)
    memory: int | None
    timeout: int | None
    max_concurrency: int | None
    reserved_concurrency: int | None
    provisioned: int | None
    batch_size: int | None
    batch_window: int | None
    env: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a task is run and retried; None = as the app's settings say.

    `retry_backoff` is the first delay of an exponential back-off (True = 1 s), capped at
    `retry_backoff_max`; `retry_jitter` draws each delay between 0 and that. `idempotent` runs
    equal calls once: True compares all arguments, a function of the arguments names the key.
    `dead_letter` keeps the message of a finally failed call in the dead letters. `throttle` has
    the limits: rates, calls at a time, calls queued. `hosting` has the hints for a deployment.
    """

    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    retry_forever: bool = False
    default_retry_delay: float | None = None
    autoretry_for: Exceptions = ()
    dont_autoretry_for: Exceptions = ()
    retry_backoff: float = 0.0
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True
    time_limit: float | None = None
    soft_time_limit: float | None = None
    expires: float | None = None
    ignore_result: bool | None = None
    track_started: bool | None = None
    idempotent: bool | Callable[..., str] = False
    dead_letter: bool = False
    throttle: Throttle | None = None
    hosting: Hosting | None = None
    retry_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    serializer: str | None = None
    compression: str | None = None

    def retries(self, default: int) -> int | None:
        """How often a call may be retried; None = for ever."""
        if self.retry_forever:
            return None
        return default if self.max_retries is None else self.max_retries

    def delay(self, retries: int, default: float) -> float:
        """Seconds to wait before the next try, after `retries` earlier ones."""
        if not self.retry_backoff:
            return default if self.default_retry_delay is None else self.default_retry_delay
        # 2.0**1024 would overflow; the cap is long reached by then.
        longest = min(self.retry_backoff_max, self.retry_backoff * 2.0 ** min(retries, 64))
        return random.uniform(0.0, longest) if self.retry_jitter else longest


def policy(name: str, options: TaskOptions) -> Policy:
    """Turn decorator options into a policy. Raises `ConfigurationError` for impossible ones."""
    values: dict[str, Any] = dict(options)
    for key in ("name", "pydantic", "base", "aliases"):
        values.pop(key, None)
    unknown = set(values.get("retry_kwargs", ())) - {"max_retries", "countdown"}
    if unknown:
        raise ConfigurationError(
            f"task {name}: retry_kwargs takes max_retries and countdown, not {min(unknown)!r}"
        )
    for key in ("autoretry_for", "dont_autoretry_for"):
        values[key] = tuple(values.get(key, ()))
    try:
        values["throttle"] = throttle_of(values)
        values["hosting"] = hosting_of(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"task {name}: {error}") from error
    values["retry_backoff"] = float(values.get("retry_backoff", 0.0))
    # Celery: max_retries=None retries for ever; left out is the app's setting.
    values["retry_forever"] = "max_retries" in options and options["max_retries"] is None
    for key in ("time_limit", "soft_time_limit", "expires", "max_retries", "default_retry_delay"):
        value = values.get(key)
        if value is not None and value < 0:
            raise ConfigurationError(f"task {name}: {key} is {value}, it cannot be negative")
    check_priority(values.get("priority"), ConfigurationError, f"task {name}: ")
    made = Policy(**values)
    wrong = unknown_form(made.serializer, made.compression)
    if wrong:
        raise ConfigurationError(f"task {name}: {wrong}")
    hard, soft = made.time_limit, made.soft_time_limit
    if hard is not None and soft is not None and soft >= hard:
        raise ConfigurationError(
            f"task {name}: soft_time_limit ({soft:g} s) must be below time_limit ({hard:g} s)"
        )
    return made


class CallOptions(TypedDict, total=False):
    """What one call may set. Times are in seconds; `eta` a datetime, `expires` either."""

    task_id: str
    countdown: float
    eta: datetime
    expires: float | datetime
    queue: str
    priority: int
    headers: Mapping[str, str]
    ignore_result: bool
    time_limit: float
    soft_time_limit: float
    group_key: str
    dedup_key: str
    idempotency_key: str
    shadow: str
    unique_key: str
    serializer: str
    compression: str
    protocol: str
    link: Node[Any] | Sequence[Node[Any]]
    link_error: Node[Any] | Sequence[Node[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one call, checked; see `CallOptions`."""

    task_id: str | None = None
    countdown: float | None = None
    eta: datetime | None = None
    expires: float | datetime | None = None
    queue: str | None = None
    priority: int | None = None
    headers: Mapping[str, str] | None = None
    ignore_result: bool | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    group_key: str | None = None
    dedup_key: str | None = None
    idempotency_key: str | None = None
    shadow: str | None = None
    unique_key: str | None = None
    serializer: str | None = None
    compression: str | None = None
    protocol: str | None = None
    link: Node[Any] | Sequence[Node[Any]] | None = None
    link_error: Node[Any] | Sequence[Node[Any]] | None = None

    def __post_init__(self) -> None:
        wrong = unknown_form(self.serializer, self.compression, self.protocol)
        if wrong:
            raise InvalidArguments(wrong)
        if self.countdown is not None and self.eta is not None:
            raise InvalidArguments("countdown and eta exclude each other: give one of them")
        for name in ("countdown", "time_limit", "soft_time_limit", "expires"):
            value = getattr(self, name)
            if value is None or isinstance(value, datetime):
                continue
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InvalidArguments(
                    f"{name} is {value!r}: it must be a number of seconds from 0 on"
                )
            if value > LONGEST_DELAY:
                raise InvalidArguments(f"{name} is {value:g} s: that is more than a century")
        if self.eta is not None and not isinstance(self.eta, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArguments(f"eta is {self.eta!r}: it must be a datetime, or use countdown")
        check_priority(self.priority, InvalidArguments)
        for name in ("task_id", "queue", "group_key", "dedup_key", "idempotency_key", "unique_key"):
            if getattr(self, name) == "":
                raise InvalidArguments(f"{name} is empty: leave it out, or name one")

    @classmethod
    def of(cls, options: CallOptions) -> Options:
        """The options given by name. Raises `TypeError` for one that there is not."""
        _check_names(options)
        return cls(**options)

    def not_before(self, now: float, zone: tzinfo = UTC) -> float | None:
        """When the call is due, epoch seconds; None for at once. `zone` is that of times without.

        Raises `InvalidArguments`.
        """
        due = now + self.countdown if self.countdown else None
        if self.eta is not None:
            due = zoned(self.eta, zone).timestamp()
        if due is not None and due - now > _LONGEST_WAIT:
            given = f"eta is {self.eta}" if self.eta else f"countdown is {self.countdown:g} s"
            raise InvalidArguments(
                f"{given}: a call can wait for ten years at most; a schedule or a row of your own "
                "is the place for what is later"
            )
        return due

    def expiry(self, now: float, default: float | None, zone: tzinfo = UTC) -> float | None:
        """When the call has expired, in epoch seconds; `zone` is that of times without one."""
        value = default if self.expires is None else self.expires
        if isinstance(value, datetime):
            return zoned(value, zone).timestamp()
        return None if value is None else now + value


def _call_of(kind: type[Any]) -> object:
    return kind.__call__


def zoned(time: datetime, zone: tzinfo) -> datetime:
    """The time, in this zone if it has none of its own."""
    return time.replace(tzinfo=zone) if time.tzinfo is None else time


def _check_names(options: CallOptions) -> None:
    known = CallOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" did you mean {close[0]}?" if close else ""
            raise TypeError(f"there is no call option {name!r}:{hint} known: {', '.join(known)}")


class Publisher(Canvas, Protocol):
    """What a task needs of its app."""

    @property
    def backend(self) -> Backend | None: ...

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]: ...

    def send(
        self, task: Task[..., T], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[T]: ...

    def apply(
        self, task: Task[..., T], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[T]: ...

    def retries_of(self, task: Task[..., Any]) -> int | None: ...

    def result_of(self, task: Task[..., T], task_id: str) -> AsyncResult[T]: ...

    def update_state(self, task_id: str, fence: int, state: str, meta: Any) -> None: ...

    @property
    def zone(self) -> tzinfo: ...
    def now(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Generic[R]):
    """A call that is not sent yet: what `app.publish` takes many of."""

    task: Task[..., R]
    options: Options
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class Task(Hooks, Generic[P, R]):
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
        app: Publisher,
        policy: Policy,
        arguments: Arguments,
        bind: bool = False,
        call_options: Options | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.policy = policy
        self.declared: TaskOptions = {}  # what the decorator said, for annotations to stand above
        self.arguments = arguments
        self.bind = bind
        self._app = app
        self._call_options = call_options or Options()
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
        """The task of a function. A subclass's own `__init__()` runs when it is all there."""
        task = cls.__new__(cls)
        task._set_up(function, **parts)
        # One of a subclass's own; it needs no arguments.
        if cast("object", cls.__init__) is not cast("object", Task[P, R].__init__):
            cls.__init__(task)
        return task

    def find_hooks(self) -> None:
        """Look which hooks are overridden, by the class or on this very task."""
        own = vars(self)
        self.hooked = any(
            hook in own or getattr(type(self), hook) is not getattr(Hooks, hook) for hook in HOOKS
        )

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def app(self) -> Publisher:
        """The app that the task belongs to."""
        return self._app

    @property
    def max_retries(self) -> int | None:
        """How often a call may be retried; None = for ever."""
        return self._app.retries_of(self)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The bare function, without what a subclass has around it in `__call__`."""
        return cast("R", self.function(*((self, *args) if self.bind else args), **kwargs))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here; an `async def` one returns its coroutine, as it would bare."""
        return cast("R", self.function(*((self, *args) if self.bind else args), **kwargs))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send one call to the queue. Raises `InvalidArguments`, `EncodeError`, `BrokerError`."""
        return self._app.send(self, self._call_options, args, kwargs)

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` when Django's transaction commits, and not at all when it is rolled back.

        A task that is sent within a transaction may run before what it is to read is there. The
        arguments are checked now, and the id is fixed now. Outside of Django there is no
        transaction that this library could know of: the call is sent at once.
        """
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """`delay_on_commit` with options for this one call."""
        made = self._merged(options)
        given = dict(kwargs or {})
        self.arguments.check(args, given)
        made = replace(made, task_id=made.task_id or new_id())
        return on_commit(
            lambda: self._app.send(self, made, args, given),
            lambda: self._app.result_of(self, str(made.task_id)),
        )

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay`, without blocking the event loop."""
        return await asyncio.to_thread(self.delay, *args, **kwargs)

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """The call without the sending; `app.publish` sends many of them in few requests."""
        return Prepared(task=self, options=self._call_options, args=args, kwargs=kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """`delay` with options for this one call. An unknown option is a `TypeError`.

        `link` is called with the value when the task has succeeded, `link_error` when it failed.
        """
        return self._app.send(self, self._merged(options), args, kwargs or {})

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool = False,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Run here and now with everything that a worker does: retries, limits, middleware.

        With `throw` a failure is raised here and not only by the result.
        """
        result = self._app.apply(self, self._merged(options), args, kwargs or {})
        if throw:
            result.get()
        return result

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802 (Celery's name)
        """The result of one of this task's calls, by its id."""
        return self._app.result_of(self, task_id)

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature: this call, not made yet, with all or some of its arguments."""
        return Signature(self.name, args, kwargs, self._given(), app=self._app)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """An immutable signature: it takes no value of what went before."""
        return Signature(self.name, args, kwargs, self._given(), immutable=True, app=self._app)

    def signature(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[R]:
        """A signature with options."""
        _check_names(options)
        given = {**self._given(), **options}
        return Signature(self.name, args, kwargs, given, immutable=immutable, app=self._app)

    subtask = signature

    def map(self, items: Iterable[Any]) -> Signature[list[R]]:
        """One call that runs this task on each item, in one message."""
        return Signature("cloudq.map", (self.name, list(items)), app=self._app)

    def starmap(self, items: Iterable[Sequence[Any]]) -> Signature[list[R]]:
        """As `map`, each item being a list of arguments."""
        given = [list(item) for item in items]
        return Signature("cloudq.starmap", (self.name, given), app=self._app)

    def chunks(self, items: Iterable[Sequence[Any]], size: int) -> group[list[R]]:
        """A group of `starmap`s over `size` items each."""
        source = iter(items)
        return group([self.starmap(part) for part in iter(lambda: list(islice(source, size)), [])])

    def replace(self, node: Node[Any]) -> NoReturn:
        """End this call and run a workflow in its place: its value is this task's value.

        Always raises. What follows this task follows the workflow, and its id becomes that of
        the workflow's last task.
        """
        raise Replaced(node)

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the header of the chord that this task is a member of, and send it."""
        return self._app.add_to_chord(node)

    def once(self, step: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do a step of this call once: later tries get the value that it had.

        The value is recorded before the task goes on, as JSON; an error is not. A process that
        dies between the step and the record does it again. Two requests, one once it is done.
        """
        request, backend = self.request, self._kept("once")
        if backend is None:
            return function(*args, **kwargs)
        done, value = recall(backend, request.id, step)
        return value if done else remember(backend, request.id, step, function(*args, **kwargs))

    async def aonce(
        self, step: str, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any
    ) -> T:
        """`once` for a step that is a coroutine function."""
        request, backend = self.request, self._kept("once")
        if backend is None:
            return await function(*args, **kwargs)
        done, value = await asyncio.to_thread(recall, backend, request.id, step)
        if done:
            return value
        value = await function(*args, **kwargs)
        return await asyncio.to_thread(remember, backend, request.id, step, value)

    def checkpoint(self, state: object) -> None:
        """Save how far this call has come, for `resume` to go on from; one request.

        In a function whose time is about to end it does not return: the rest of the call is a
        new message, with the same id, in another invocation.
        """
        request, backend = self.request, self._kept("checkpoint")
        if backend is None:
            return
        save(backend, request.id, request.fence, state)
        if request.progress is not None and not request.progress.step():
            raise Continued(f"{self.name} goes on in another invocation")

    def resume(self, default: T) -> T:
        """The state that an earlier try of this call saved last, or `default`; one request."""
        request, backend = self.request, self._kept("resume")
        return default if backend is None else load(backend, request.id, default)

    def _kept(self, method: str) -> Backend | None:
        """Where the call's progress is kept; None for an eager one that has nowhere."""
        backend = self._app.backend
        if backend is None and not self.request.is_eager:
            raise ConfigurationError(
                f"{self.name}: self.{method} needs the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return backend

    def _given(self) -> dict[str, Any]:
        """The options that `options()` has set."""
        given = {name: getattr(self._call_options, name) for name in CallOptions.__annotations__}
        return {name: value for name, value in given.items() if value is not None}

    def options(self, **options: Unpack[CallOptions]) -> Task[P, R]:
        """A copy of this task whose calls have these options: `t.options(countdown=5).delay()`."""
        made = copy(self)
        made._call_options = self._merged(options)
        return made

    def _merged(self, options: CallOptions) -> Options:
        if not options:
            return self._call_options
        _check_names(options)
        return replace(self._call_options, **options)

    @property
    def request(self) -> Request:
        """The call that is running; of a task called as a function, `called_directly` is true."""
        request = current_request.get()
        if request is None or request.task != self.name:
            return Request(id="", task=self.name, called_directly=True)
        return request

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None
    ) -> None:
        """Record a state of your own, or progress, of the running call (or of `task_id`).

        `result.state` and `result.info` show both until the next state is recorded. One write to
        the store; nothing happens without one. A state that ends a task cannot be set: a task
        ends by returning or raising. Raises `InvalidArguments`, `EncodeError`, `BackendError`.
        """
        request = self.request
        if task_id is None and request.called_directly:
            raise InvalidArguments(f"{self.name}.update_state: no call is running: give task_id=")
        fence = request.fence if task_id in (None, request.id) else -1
        self._app.update_state(task_id or request.id, fence, state or "STARTED", meta)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """End this try and have the task run again later: `raise self.retry()`.

        `args` and `kwargs` replace the arguments, `options` those of the call. Raises, so that
        nothing after it runs; with `throw=False` it returns, and the task is retried when the
        function ends, whatever it returns or raises. Raises `exc`, or `MaxRetriesExceeded`
        without one, when no retries are left; called outside of a worker, `exc` itself.
        """
        request = self.request
        allowed = self._app.retries_of(self) if max_retries is None else max_retries
        if request.called_directly:
            raise exc or Retry(f"{self.name} was called as a function: nobody tries it again")
        if allowed is not None and request.retries >= allowed:
            raise exc or MaxRetriesExceeded(
                f"{self.name} was retried {request.retries} times and may not be again"
            )
        if eta is not None:
            due = zoned(eta, self._app.zone)
            countdown = max(0.0, due.timestamp() - self._app.now())
        retry = Retry(
            str(exc or "retry"),
            countdown=countdown,
            cause=exc,
            max_retries=max_retries,
            changes=self._changes(request, args, kwargs, cast("CallOptions", options)),
        )
        if not throw:
            request.asked[:] = [retry]
            return retry
        raise retry from exc

    def _changes(
        self,
        request: Request,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: CallOptions,
    ) -> dict[str, Any]:
        """The fields of the message that are to be other in the next try."""
        changes: dict[str, Any] = {}
        if args is not None or kwargs is not None:
            plain, named = self.arguments.check(
                request.args if args is None else args, request.kwargs if kwargs is None else kwargs
            )
            changes["args"] = [to_wire(arg) for arg in plain]
            changes["kwargs"] = {name: to_wire(value) for name, value in named.items()}
        if options:
            made = Options.of(options)
            unusable = {"task_id"} & options.keys()
            if unusable:
                raise InvalidArguments(f"{self.name}.retry: {min(unusable)} cannot be changed")
            changes |= options
            if "expires" in options:
                changes["expires"] = made.expiry(self._app.now(), None, self._app.zone)
        return changes
