"""The options of one call: their names and types, their checks, and the times they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from datetime import UTC, datetime, tzinfo
from operator import attrgetter
from typing import Any, TypedDict

from cloudq.amounts import CENTURY, seconds, shown
from cloudq.broker.retry import PublishPolicy, publish_policy
from cloudq.driver.immutable import immutable
from cloudq.errors import InvalidArguments, did_you_mean
from cloudq.messages.codec import unknown_form
from cloudq.tasks.callback import Callback
from cloudq.tasks.priorities import check_priority

# A call that is kept for longer outlives the code that it calls.
LONGEST_WAIT = 10 * 365.25 * 86_400.0
"""The longest time that a call may wait, in seconds."""


class CallOptions(TypedDict, total=False):
    """The options of one call, for type checkers; `Options` has the same names and types.

    Times are in seconds, `eta` is a datetime, `expires` either.
    """

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
    link: Callback | Sequence[Callback]
    link_error: Callback | Sequence[Callback]
    retry: bool
    retry_policy: Mapping[str, Any]


def check_time_limits(soft: float | None, hard: float | None) -> None:
    """Refuse a soft limit that the hard one would always forestall. Raises `InvalidArguments`."""
    if soft and hard and soft >= hard:
        raise InvalidArguments(
            f"soft_time_limit ({soft:g} s) must be below time_limit ({hard:g} s)"
        )


# Where an option goes besides the call itself, as metadata of its field.
_IN_MESSAGE = {"in_message": True}  # the message has a field of the same name
_CALLER_ONLY = {"caller_only": True}  # concerns the sending alone: no route or retry may set it


@immutable
class Options:
    """The options of one call, checked. A new option is a field here and a line in `CallOptions`.

    `in_message` and `caller_only` in a field's metadata make the tables below.
    """

    task_id: str | None = None
    countdown: float | None = None
    eta: datetime | None = None
    expires: float | datetime | None = None
    queue: str | None = None
    priority: int | None = None
    headers: Mapping[str, str] | None = field(default=None, metadata=_IN_MESSAGE)
    ignore_result: bool | None = field(default=None, metadata=_IN_MESSAGE)
    time_limit: float | None = field(default=None, metadata=_IN_MESSAGE)
    soft_time_limit: float | None = field(default=None, metadata=_IN_MESSAGE)
    group_key: str | None = field(default=None, metadata=_IN_MESSAGE)
    dedup_key: str | None = field(default=None, metadata=_IN_MESSAGE)
    idempotency_key: str | None = field(default=None, metadata=_IN_MESSAGE)
    shadow: str | None = field(default=None, metadata=_IN_MESSAGE)
    unique_key: str | None = field(default=None, metadata=_IN_MESSAGE)
    serializer: str | None = None
    compression: str | None = None
    protocol: str | None = None
    link: Callback | Sequence[Callback] | None = None
    link_error: Callback | Sequence[Callback] | None = None
    retry: bool | None = field(default=None, metadata=_CALLER_ONLY)
    retry_policy: Mapping[str, Any] | None = field(default=None, metadata=_CALLER_ONLY)

    def __post_init__(self) -> None:
        wrong = unknown_form(self.serializer, self.compression, self.protocol)
        if wrong:
            raise InvalidArguments(wrong)
        if self.countdown is not None and self.eta is not None:
            raise InvalidArguments("countdown and eta exclude each other: give one of them")
        for name in ("countdown", "time_limit", "soft_time_limit", "expires"):
            value = getattr(self, name)
            if value is None or (name == "expires" and isinstance(value, datetime)):
                continue
            seconds(value, name)
        if self.eta is not None and not isinstance(self.eta, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArguments(f"eta is {self.eta!r}: it must be a datetime, or use countdown")
        check_time_limits(self.soft_time_limit, self.time_limit)
        check_priority(self.priority, InvalidArguments)
        if self.retry is not None or self.retry_policy is not None:
            publish_policy(self.retry, self.retry_policy)
        for name in ("task_id", "queue", "group_key", "dedup_key", "idempotency_key", "unique_key"):
            value = getattr(self, name)
            if value == "":
                raise InvalidArguments(f"{name} is empty: leave it out, or name one")
            if value is not None and not isinstance(value, str):
                raise InvalidArguments(f"{name} is {shown(value)}: give a text")

    @property
    def publish_policy(self) -> PublishPolicy | None:
        """The policy for sending again to a busy broker; None for the app's own."""
        if self.retry is None and self.retry_policy is None:
            return None
        return publish_policy(self.retry, self.retry_policy)

    @classmethod
    def of(cls, options: CallOptions) -> Options:
        """Check options given by name. Raises `TypeError` for an unknown one."""
        check_names(options)
        return cls(**options)

    def given(self) -> CallOptions:
        """Return the options that are set, by name."""
        return _set_options(_NAMES, _values(self))

    def in_message(self) -> CallOptions:
        """Return the options that are set and that the message carries under the same names."""
        return _set_options(_MESSAGE_NAMES, _message_values(self))

    def not_before(self, now: float, zone: tzinfo = UTC) -> float | None:
        """Return when the call is due, in epoch seconds; None for at once.

        `zone` applies to naive datetimes. Raises `InvalidArguments` for more than ten years.
        """
        due = now + self.countdown if self.countdown else None
        if self.eta is not None:
            due = zoned(self.eta, zone).timestamp()
        if due is not None and due - now > LONGEST_WAIT:
            given = f"eta is {self.eta}" if self.eta else f"countdown is {self.countdown:g} s"
            raise InvalidArguments(
                f"{given}: a call can wait for ten years at most; for a later time use a schedule "
                "or a database of your own"
            )
        return due

    def expiry(self, now: float, default: float | None, zone: tzinfo = UTC) -> float | None:
        """Return when the call expires, in epoch seconds; `zone` applies to naive datetimes."""
        value = default if self.expires is None else self.expires
        if isinstance(value, datetime):
            return zoned(value, zone).timestamp()
        return None if value is None else now + value


_NAMES = tuple(each.name for each in fields(Options))
_MESSAGE_NAMES = tuple(each.name for each in fields(Options) if "in_message" in each.metadata)
CALLER_ONLY = frozenset(each.name for each in fields(Options) if "caller_only" in each.metadata)
"""The options that only the sending process uses."""
_values = attrgetter(*_NAMES)
_message_values = attrgetter(*_MESSAGE_NAMES)


def _set_options(names: Sequence[str], values: Sequence[Any]) -> CallOptions:
    made: Any = {
        name: value for name, value in zip(names, values, strict=True) if value is not None
    }
    return made


NO_OPTIONS = Options()
"""The options of a plain call, `task.delay(...)`: none is set."""


def checked_countdown(given: Any) -> float:
    """Return the countdown of a retry in seconds; a past one is 0. Raises `InvalidArguments`."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not -CENTURY <= given <= LONGEST_WAIT:
        raise InvalidArguments(
            f"the countdown of a retry is {shown(given)}: give seconds, ten years at most"
        )
    return max(0.0, float(given))


def check_headers(given: Any, of: str) -> None:
    """Raise `InvalidArguments` for headers that are no texts by their names."""
    if given is not None and not isinstance(given, Mapping):
        raise InvalidArguments(f"{of}: headers are {shown(given)}: give texts by their names")
    headers: Mapping[Any, Any] = given or {}  # pyright: ignore[reportUnknownVariableType]
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArguments(f"{of}: header {shown(name)} is {shown(value)}: give a text")


def zoned(time: datetime, zone: tzinfo) -> datetime:
    """Return a time with a zone: its own, or this one if it is naive."""
    return time.replace(tzinfo=zone) if time.tzinfo is None else time


def check_names(options: CallOptions) -> None:
    """Raise `TypeError` for an unknown option."""
    known = CallOptions.__annotations__
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"known: {', '.join(known)}")
            raise TypeError(f"there is no call option {name!r}: {hint}")
