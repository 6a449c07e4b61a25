"""The options of a task: the names its decorator takes, and their checked values."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, TypedDict

from cloudq.amounts import CENTURY, count, seconds
from cloudq.clock import grown
from cloudq.driver.immutable import immutable
from cloudq.errors import ConfigurationError, InvalidArguments
from cloudq.messages.codec import unknown_form
from cloudq.messages.ids import MOST_OF_A_BUNDLE
from cloudq.tasks.call_options import LONGEST_WAIT, checked_countdown
from cloudq.tasks.function_hints import FunctionHints, function_hints_of
from cloudq.tasks.hooks import Hooks
from cloudq.tasks.limits.keys import Keys, keys_of
from cloudq.tasks.limits.rules import KeyRule, Throttle, throttle_of
from cloudq.tasks.priorities import check_priority
from cloudq.tasks.secrecy import names_of

Exceptions = tuple[type[BaseException], ...]


class TaskOptions(TypedDict, total=False):
    """The options of `@app.task(...)`, times in seconds; defaults are the app's settings."""

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
    group_key: KeyRule
    dedup_key: KeyRule
    pydantic: bool
    typing: bool  # False: arguments are not checked against the function at the call
    base: type[Hooks]  # a subclass of Task
    aliases: Iterable[str]
    retry_kwargs: Mapping[str, Any]
    serializer: str
    compression: str
    bundle: int | None
    secret: Iterable[str]
    # Of the function that runs it: see `FunctionHints`. (`concurrency` is of the task, everywhere.)
    memory: int | None
    timeout: int | None
    max_concurrency: int | None
    reserved_concurrency: int | None
    provisioned: int | None
    batch_size: int | None
    batch_window: int | None
    env: Mapping[str, str] | None


@immutable
class Policy:
    """The rules for running and retrying a task; None = the app's setting.

    `retry_backoff` is the first delay of an exponential back-off (True = 1 s), capped at
    `retry_backoff_max`; `retry_jitter` draws each delay between 0 and that. `idempotent` runs
    equal calls once: True compares all arguments, a function of the arguments names the key.
    `dead_letter` keeps the message of a finally failed call in the dead letters. `throttle` has
    the limits: rates, calls at a time, calls queued. `keys` makes the keys of ordered queues.
    `function_hints` has the hints for a deployment. `bundle` is the most calls in one message,
    where many are published together. `secret` names the parameters that are never shown.
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
    keys: Keys | None = None
    function_hints: FunctionHints | None = None
    retry_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    serializer: str | None = None
    compression: str | None = None
    bundle: int | None = None
    secret: frozenset[str] = frozenset()

    def retries(self, default: int) -> int | None:
        """Return the number of retries that a call may have; None for no limit."""
        if self.retry_forever:
            return None
        return default if self.max_retries is None else self.max_retries

    def delay(self, retries: int, default: float) -> float:
        """Return the seconds to wait before the next try, after `retries` earlier ones."""
        if not self.retry_backoff:
            return default if self.default_retry_delay is None else self.default_retry_delay
        longest = grown(self.retry_backoff, retries, self.retry_backoff_max)
        return random.uniform(0.0, longest) if self.retry_jitter else longest

    def retries_by_itself(self, id: str, error: BaseException) -> bool:
        """Say if the task retries a call by itself after this exception."""
        if isinstance(error, self.dont_autoretry_for) or error.__dict__.get(_SPENT) == id:
            return False
        return isinstance(error, self.autoretry_for)


# The mark of an exception for which a call has asked for a retry that may not be.
_SPENT = "_cloudq_spent"


def spend_retries(id: str, error: BaseException) -> None:
    """Have a call not be retried by its task after this exception."""
    if isinstance(error, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]
        error.__dict__[_SPENT] = id  # a class is raised as well, and has no such place


def policy(name: str, options: TaskOptions) -> Policy:
    """Turn decorator options into a policy. Raises `ConfigurationError` for impossible ones."""
    values: dict[str, Any] = dict(options)
    for key in ("name", "pydantic", "typing", "base", "aliases"):
        values.pop(key, None)
    unknown = set(values.get("retry_kwargs", ())) - {"max_retries", "countdown"}
    if unknown:
        raise ConfigurationError(
            f"task {name}: retry_kwargs takes max_retries and countdown, not {min(unknown)!r}"
        )
    for key in ("autoretry_for", "dont_autoretry_for"):
        values[key] = _exceptions(f"task {name}: {key}", values.get(key, ()))
    if not isinstance(values.get("queue", ""), str | None):
        raise ConfigurationError(f"task {name}: queue is {values['queue']!r}: give a text")
    try:
        values["throttle"] = throttle_of(values)
        values["keys"] = keys_of(values)
        values["function_hints"] = function_hints_of(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"task {name}: {error}") from error
    # Celery: max_retries=None retries for ever; left out is the app's setting.
    values["retry_forever"] = "max_retries" in options and options["max_retries"] is None
    _check_numbers(name, values)
    if not isinstance(values.get("idempotent", False), bool) and not callable(values["idempotent"]):
        raise ConfigurationError(
            f"task {name}: idempotent is {values['idempotent']!r}: it must be True, or a function "
            "of the arguments that gives the key"
        )
    values["secret"] = names_of(name, values.get("secret", ()))
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


def _exceptions(what: str, given: Any) -> Exceptions:
    kinds: tuple[Any, ...] = tuple(given) if hasattr(given, "__iter__") else (None,)
    if all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds):
        return kinds
    raise ConfigurationError(
        f"{what} is {given!r}: give a list of exception classes, as (OSError,)"
    )


_SECONDS = {
    "default_retry_delay": LONGEST_WAIT,
    "retry_backoff_max": LONGEST_WAIT,
    "time_limit": CENTURY,
    "soft_time_limit": CENTURY,
    "expires": CENTURY,
}
"""The options that are seconds, and the most that each may be."""


def _check_numbers(name: str, values: dict[str, Any]) -> None:
    """Raise `ConfigurationError` for a number of a task that is none, or could not be used."""
    where = f"task {name}: "
    for key, most in _SECONDS.items():
        if values.get(key) is not None:
            seconds(values[key], where + key, ConfigurationError, most=most)
    first = values.get("retry_backoff", 0.0)  # True is Celery's word for one second
    if not isinstance(first, bool):
        first = seconds(first, f"{where}retry_backoff", ConfigurationError, most=LONGEST_WAIT)
    values["retry_backoff"] = float(first)
    if values.get("bundle") is not None:
        count(
            values["bundle"], f"{where}bundle", ConfigurationError, least=1, most=MOST_OF_A_BUNDLE
        )
    given = values.get("retry_kwargs", {})
    for options, place in ((values, where), (given, f"{where}retry_kwargs: ")):
        if options.get("max_retries") is not None:
            count(options["max_retries"], f"{place}max_retries", ConfigurationError)
    if given.get("countdown") is not None:
        try:
            checked_countdown(given["countdown"])
        except InvalidArguments as error:
            raise ConfigurationError(f"{where}retry_kwargs: {error}") from error
