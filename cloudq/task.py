"""A task: a named function with options, typed by its own parameters and result."""

from __future__ import annotations

import asyncio
import difflib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast

from cloudq.arguments import Arguments
from cloudq.canvas.nodes import Canvas, Node, Signature, group
from cloudq.errors import ConfigurationError, InvalidArguments, MaxRetriesExceeded, Replaced, Retry
from cloudq.middleware import Request, current_request
from cloudq.result import AsyncResult, EagerResult

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Exceptions = tuple[type[BaseException], ...]


class TaskOptions(TypedDict, total=False):
    """What `@app.task(...)` takes. Times are in seconds; left out: the app's setting."""

    name: str
    queue: str
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
    pydantic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a task is run and retried; None = as the app's settings say.

    `retry_backoff` is the first delay of an exponential back-off (True = 1 s), capped at
    `retry_backoff_max`; `retry_jitter` draws each delay between 0 and that. `idempotent` runs
    equal calls once: True compares all arguments, a function of the arguments names the key.
    `dead_letter` keeps the message of a finally failed call in the dead letters.
    """

    queue: str | None = None
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
    for key in ("name", "pydantic"):
        values.pop(key, None)
    for key in ("autoretry_for", "dont_autoretry_for"):
        values[key] = tuple(values.get(key, ()))
    values["retry_backoff"] = float(values.get("retry_backoff", 0.0))
    # Celery: max_retries=None retries for ever; left out is the app's setting.
    values["retry_forever"] = "max_retries" in options and options["max_retries"] is None
    for key in ("time_limit", "soft_time_limit", "expires", "max_retries", "default_retry_delay"):
        value = values.get(key)
        if value is not None and value < 0:
            raise ConfigurationError(f"task {name}: {key} is {value}, it cannot be negative")
    made = Policy(**values)
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
    headers: Mapping[str, str]
    ignore_result: bool
    time_limit: float
    soft_time_limit: float
    group_key: str
    dedup_key: str
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one call, checked; see `CallOptions`."""

    task_id: str | None = None
    countdown: float | None = None
    eta: datetime | None = None
    expires: float | datetime | None = None
    queue: str | None = None
    headers: Mapping[str, str] | None = None
    ignore_result: bool | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    group_key: str | None = None
    dedup_key: str | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
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
        for name in ("eta", "expires"):
            value = getattr(self, name)
            if isinstance(value, datetime) and value.tzinfo is None:
                raise InvalidArguments(f"{name} has no time zone: use datetime.now(UTC) + ...")
        if self.eta is not None and not isinstance(self.eta, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArguments(
                f"eta is {self.eta!r}: it must be a datetime with a time zone, or use countdown"
            )
        for name in ("task_id", "queue", "group_key", "dedup_key", "idempotency_key"):
            if getattr(self, name) == "":
                raise InvalidArguments(f"{name} is empty: leave it out, or name one")

    @classmethod
    def of(cls, options: CallOptions) -> Options:
        """The options given by name. Raises `TypeError` for one that there is not."""
        _check_names(options)
        return cls(**options)

    def not_before(self, now: float) -> float | None:
        if self.eta is not None:
            return self.eta.timestamp()
        return now + self.countdown if self.countdown else None

    def expiry(self, now: float, default: float | None) -> float | None:
        value = default if self.expires is None else self.expires
        if isinstance(value, datetime):
            return value.timestamp()
        return None if value is None else now + value


def _check_names(options: CallOptions) -> None:
    known = CallOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" did you mean {close[0]}?" if close else ""
            raise TypeError(f"there is no call option {name!r}:{hint} known: {', '.join(known)}")


class Publisher(Canvas, Protocol):
    """What a task needs of its app."""

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]: ...

    def send(
        self, task: Task[..., T], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[T]: ...

    def apply(
        self, task: Task[..., T], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[T]: ...

    def retries_of(self, task: Task[..., Any]) -> int | None: ...

    def now(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Generic[R]):
    """A call that is not sent yet: what `app.publish` takes many of."""

    task: Task[..., R]
    options: Options
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class Task(Generic[P, R]):
    """A function that can run elsewhere.

    Calling a task runs it here and now, as the function it is. `delay` sends it to its queue.
    """

    def __init__(
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
        self.arguments = arguments
        self.bind = bind
        self._app = app
        self._call_options = call_options or Options()
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here; an `async def` one returns its coroutine, as it would bare."""
        return cast("R", self.function(*((self, *args) if self.bind else args), **kwargs))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send one call to the queue. Raises `InvalidArguments`, `EncodeError`, `BrokerError`."""
        return self._app.send(self, self._call_options, args, kwargs)

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
        """`delay` with options for this one call. An unknown option is a `TypeError`."""
        return self._app.send(self, self._merged(options), args, kwargs or {})

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Run here and now with everything that a worker does: retries, limits, middleware."""
        return self._app.apply(self, self._merged(options), args, kwargs or {})

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

    def _given(self) -> dict[str, Any]:
        """The options that `options()` has set."""
        given = {name: getattr(self._call_options, name) for name in CallOptions.__annotations__}
        return {name: value for name, value in given.items() if value is not None}

    def options(self, **options: Unpack[CallOptions]) -> Task[P, R]:
        """A copy of this task whose calls have these options: `t.options(countdown=5).delay()`."""
        return Task(
            self.function,
            name=self.name,
            app=self._app,
            policy=self.policy,
            arguments=self.arguments,
            bind=self.bind,
            call_options=self._merged(options),
        )

    def _merged(self, options: CallOptions) -> Options:
        if not options:
            return self._call_options
        _check_names(options)
        return replace(self._call_options, **options)

    @property
    def request(self) -> Request:
        """The call that is running. Raises `RuntimeError` outside of a task."""
        request = current_request.get()
        if request is None:
            raise RuntimeError(f"{self.name}.request exists only while the task runs")
        return request

    def retry(
        self,
        *,
        exc: BaseException | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """End this try and have the task run again later. Always raises: `raise self.retry()`.

        Raises `exc`, or `MaxRetriesExceeded` without one, when no retries are left.
        """
        allowed = self._app.retries_of(self) if max_retries is None else max_retries
        if allowed is not None and self.request.retries >= allowed:
            raise exc or MaxRetriesExceeded(
                f"{self.name} was retried {self.request.retries} times and may not be again"
            )
        if eta is not None:
            countdown = max(0.0, eta.timestamp() - self._app.now())
        raise Retry(
            str(exc or "retry"), countdown=countdown, cause=exc, max_retries=max_retries
        ) from exc
