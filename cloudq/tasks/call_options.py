"""What one call may set, checked; when it is due, and when it has expired."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from math import inf
from typing import Any, TypedDict

from cloudq.broker.retry import PublishPolicy, publish_policy
from cloudq.errors import InvalidArguments
from cloudq.messages.codec import unknown_form
from cloudq.tasks.priorities import check_priority
from cloudq.tasks.signature import Node

# A century: the wire's times end with the year 9999.
LONGEST_DELAY = 36_525 * 86_400.0
# What is kept for longer outlives the code that it is a call of.
_LONGEST_WAIT = 10 * 365.25 * 86_400.0


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
    retry: bool
    retry_policy: Mapping[str, Any]


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
    retry: bool | None = None
    retry_policy: Mapping[str, Any] | None = None

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
        if self.retry is not None or self.retry_policy is not None:
            publish_policy(self.retry, self.retry_policy)
        for name in ("task_id", "queue", "group_key", "dedup_key", "idempotency_key", "unique_key"):
            if getattr(self, name) == "":
                raise InvalidArguments(f"{name} is empty: leave it out, or name one")

    @property
    def publish_policy(self) -> PublishPolicy | None:
        """How often the call is sent again to a busy broker; None as the app says."""
        if self.retry is None and self.retry_policy is None:
            return None
        return publish_policy(self.retry, self.retry_policy)

    @classmethod
    def of(cls, options: CallOptions) -> Options:
        """The options given by name. Raises `TypeError` for one that there is not."""
        check_names(options)
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


def checked_countdown(given: Any) -> float:
    """The countdown of a retry, in seconds; what has passed is 0. Raises `InvalidArguments`."""
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not -inf < given <= _LONGEST_WAIT:
        raise InvalidArguments(
            f"the countdown of a retry is {given!r}: give seconds, ten years at most"
        )
    return max(0.0, float(given))


def zoned(time: datetime, zone: tzinfo) -> datetime:
    """The time, in this zone if it has none of its own."""
    return time.replace(tzinfo=zone) if time.tzinfo is None else time


def check_names(options: CallOptions) -> None:
    """Raise `TypeError` for an option that there is not."""
    known = CallOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" did you mean {close[0]}?" if close else ""
            raise TypeError(f"there is no call option {name!r}:{hint} known: {', '.join(known)}")
