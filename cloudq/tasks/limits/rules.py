"""The limits in a task's options: rates such as `10/s`, and keys such as `user:{user_id}`."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from cloudq.amounts import seconds, shown
from cloudq.driver.immutable import immutable
from cloudq.errors import ConfigurationError, InvalidArguments
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.call_options import LONGEST_WAIT
from cloudq.tasks.limits.templates import SECRET_KEY, filled, text_of

KeyRule = str | Callable[..., str]
"""Makes the key of a call: a template over its arguments by name, or a function of them."""

_RATE = r"(\d+(?:\.\d+)?)(?:/([smhd]))?"
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
# Each permit is a field of one item, and Azure's tables take 252 of them.
_MOST = 200
_MOST_CALLS = 1_000_000
_LONGEST_RATE = 64
_LONGEST_KEY = 500
_UNIQUE_FOR = 86_400.0


@immutable
class Rate:
    """A rate of `count` calls in `seconds`, evenly spread, with bursts of one second's worth."""

    count: float
    seconds: float

    @property
    def every(self) -> float:
        """Seconds from one call to the next."""
        return self.seconds / self.count

    @property
    def burst(self) -> int:
        """The calls that may start at once: a second's worth, as queues delay by whole seconds."""
        return max(1, math.floor(self.count / self.seconds))

    def __str__(self) -> str:
        unit = next(unit for unit, length in _PERIODS.items() if length == self.seconds)
        return f"{self.count:g}/{unit}"


@immutable
class Concurrency:
    """Runs at most `most` calls of one key at a time."""

    key: KeyRule
    most: int = 1


@immutable
class Throttle:
    """The limits of a task. `rate` applies to each worker, `global_rate` to all together.

    Of the calls with one `unique` key, one may be queued or running; True compares all arguments.
    A call that never ended no longer counts after `unique_for` seconds.
    """

    rate: Rate | None = None
    global_rate: Rate | None = None
    concurrency: Concurrency | None = None
    unique: bool | KeyRule = False
    unique_for: float = _UNIQUE_FOR


def need_store(task: str, throttle: Throttle) -> None:
    """Raise `ConfigurationError` if a limit is kept in the result backend, which is missing."""
    kept = {
        "global_rate_limit": throttle.global_rate,
        "concurrency": throttle.concurrency,
        "unique": throttle.unique,
    }
    for option, value in kept.items():
        if value:
            raise ConfigurationError(
                f"{task}: {option} is kept in the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )


def rate_of(given: object, name: str = "rate_limit") -> Rate | None:
    """Read a rate: `"10/s"`, `"100/m"`, `"5/h"`, `"1/d"` or a number per second; None and 0: none.

    Raises `ConfigurationError`.
    """
    if given is None:
        return None
    found = re.fullmatch(_RATE, _rate_text(given))
    if found is None:
        raise ConfigurationError(
            f'{name} is {shown(given)}: it must be like "10/s", "100/m", "5/h" or "1/d", '
            "or a number a second"
        )
    number, period = float(found[1]), _PERIODS[found[2] or "s"]
    if not number:
        return None
    if not period / LONGEST_WAIT <= number <= _MOST_CALLS * period:
        raise ConfigurationError(
            f"{name} is {shown(given)}: it must be between a call in ten years and "
            f"{_MOST_CALLS:,} calls a second"
        )
    return Rate(count=number, seconds=period)


def _rate_text(given: object) -> str:
    """Return a rate as text; nothing for what is none, or as long as no rate is."""
    if isinstance(given, int) and (isinstance(given, bool) or given > _MOST_CALLS):
        return ""
    text = str(given).strip()
    return text if len(text) <= _LONGEST_RATE else ""


def throttle_of(options: dict[str, Any]) -> Throttle | None:
    """Take the limits out of a task's options; None if there are none.

    Raises `ConfigurationError`.
    """
    throttle = Throttle(
        rate=rate_of(options.pop("rate_limit", None)),
        global_rate=rate_of(options.pop("global_rate_limit", None), "global_rate_limit"),
        concurrency=_concurrency(options.pop("concurrency", None)),
        unique=_unique(options.pop("unique", False)),
        unique_for=_unique_for(options.pop("unique_for", _UNIQUE_FOR)),
    )
    return None if throttle == Throttle() else throttle


def _concurrency(given: Any) -> Concurrency | None:
    if given is None:
        return None
    key, most = given, 1
    if isinstance(given, tuple) and len(cast("tuple[Any, ...]", given)) == 2:
        key, most = cast("tuple[Any, Any]", given)
    elif isinstance(given, int):
        key, most = "", given
    if isinstance(given, bool) or not _is_rule(key) or (isinstance(key, str) and key.isdecimal()):
        raise ConfigurationError(
            f'concurrency is {given!r}: it must be a key like "user:{{user_id}}", '
            'a key and a number like ("user:{user_id}", 3), or a number'
        )
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= _MOST:
        raise ConfigurationError(f"concurrency is {shown(most)}: the number must be 1 to {_MOST}")
    return Concurrency(key=key, most=most)


def _is_rule(key: Any) -> bool:
    return isinstance(key, str) or callable(key)


def _unique(given: Any) -> bool | KeyRule:
    if callable(given) or (isinstance(given, bool | str) and given != ""):
        return cast("bool | KeyRule", given)
    raise ConfigurationError(
        f'unique is {given!r}: it must be True, a key like "user:{{user_id}}", or a function'
    )


def _unique_for(given: object) -> float:
    if given == 0:
        raise ConfigurationError("unique_for is 0: it must be a number of seconds above 0")
    return seconds(given, "unique_for", ConfigurationError)


def check_templates(
    task: str, throttle: Throttle | None, parameters: Sequence[str], *, open: bool
) -> None:
    """Check that key templates name only the task's parameters; `open`: it takes any keyword.

    Raises `ConfigurationError`.
    """
    if throttle is None:
        return
    rules = {
        "concurrency": throttle.concurrency.key if throttle.concurrency else "",
        "unique": throttle.unique,
    }
    for option, rule in rules.items():
        check_template(task, option, rule, parameters, open=open)


def fields_in(rule: str) -> list[str]:
    """Return the parameters that a template names. Raises `ValueError` for what is none."""
    fields = [name for _, name, _, _ in string.Formatter().parse(rule) if name is not None]
    return [re.split(r"[.\[]", field)[0] for field in fields]


def check_template(
    task: str, option: str, rule: object, parameters: Sequence[str], *, open: bool
) -> None:
    """Check that a rule, if it is a template, names only the task's parameters.

    Raises `ConfigurationError`.
    """
    if not isinstance(rule, str):
        return
    try:
        fields = fields_in(rule)
    except ValueError as error:
        raise ConfigurationError(f"task {task}: {option} is {rule!r}: {error}") from error
    for name in fields:
        if name not in parameters and not (open and name.isidentifier()):
            raise ConfigurationError(
                f"task {task}: {option} is {rule!r}, and the task has no parameter {name!r}: "
                f"it has {', '.join(parameters) or 'none'}"
            )


def key_text(
    rule: bool | KeyRule, arguments: Arguments, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Make the key of a call of the task with these `arguments`. A key function may raise."""
    if rule is True:
        return arguments.key(args, kwargs)
    if callable(rule):
        text = text_of(rule(*args, **kwargs))
    else:
        text = _filled(str(rule), arguments, arguments.named(args, kwargs))
    if len(text.encode()) > _LONGEST_KEY:
        raise InvalidArguments(
            f"the key {text[:40]!r}... has {len(text.encode())} bytes: at most {_LONGEST_KEY}"
        )
    return text


def _filled(rule: str, arguments: Arguments, named: Mapping[str, Any]) -> str:
    """Fill a template.

    Raises `InvalidArguments` where a call lacks what the template names, or that is secret.
    """
    runtime = arguments.runtime
    try:
        if runtime is not None and runtime.redaction.has_secret(arguments.name, rule, named):
            raise InvalidArguments(SECRET_KEY)
        return filled(rule, named)
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise InvalidArguments(
            f"the key {rule!r} cannot be made of these arguments: {type(error).__name__}: {error}"
        ) from error
