"""Settlements: the outcome of a delivery as data. `commit` carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult
from cloudq.driver import Code, Delivery, Item, Key, Limits, Value
from cloudq.driver.forks import imported
from cloudq.driver.immutable import immutable
from cloudq.errors import InvalidArguments, ServiceError
from cloudq.messages.fields import MOST
from cloudq.messages.message import TaskMessage, payloads_of
from cloudq.results.record import Record, State
from cloudq.tasks.limits.unique import unique_key
from cloudq.text import HIDING

# The queue of calls that run in their caller's thread: there is none.
EAGER = Limits(
    batch=1, body=0, batch_body=0, max_delay=float("inf"), max_lease=0.0, max_wait=0.0, billed=False
)

NEVER = frozenset({Code.INVALID, Code.TOO_LARGE})
"""The codes of requests that a service will never accept: they are no outage."""


class Action(StrEnum):
    """The ways to settle a message."""

    ACK = "ack"
    RELEASE = "release"  # it comes back after `after` seconds
    DEAD_LETTER = "dead-letter"  # with `reason`
    NOTHING = "nothing"  # another process has the message by now


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSteps:
    """The steps after a call that will never run, since it ended as `because` says.

    `calls` are ids with the names of their tasks, `stored` the references to steps in the store.
    """

    because: Record
    calls: Sequence[tuple[str, str]]
    stored: Sequence[dict[str, Any]] = ()

    def records(self, more: Sequence[tuple[str, str]] = ()) -> list[Record]:
        """Make the records of the calls, and of `more`: they end as the call before them."""
        ended = replace(self.because, value=None, children=None, join=None, started_at=None)
        return [replace(ended, id=id, task=task) for id, task in (*self.calls, *more)]


@immutable
class Settlement:
    """The outcome of one delivery.

    `state` is the new state of the task, None if it does not change. `record` is written whole,
    or, when `fenced`, only if no later delivery and no end is recorded; `extra` is stored along
    with it, and `kept`, before that, has the fields of the value in it, if the record has none.
    `starts` is the workflow that follows, sent before the record is written. After the
    record, `drop`, the claim of an idempotent call, is ended, unless a later delivery than that of
    `claim_fence` has it; `member_result` is reported to the task's chord, `unique_claim`, the
    claim of a unique call, is ended, and `failed_steps`, the steps of its chain that will never
    run, are recorded with the same end. `frees` are keys of payloads that nobody needs once the
    message is acked. `error` stays in this process, and so does `hide`, which hides the secrets
    of the call in the texts of the error. `name` is that of the task where `task` is
    another name for it in logs.
    """

    action: Action
    task_id: str = ""
    task: str = ""
    state: State | None = None
    reason: str = ""
    after: float = 0.0
    resend: TaskMessage | None = None
    record: Record | None = None
    fenced: bool = False
    extra: Item | None = None
    kept: Mapping[str, Value] | None = None
    drop: Key | None = None
    claim_fence: int = 0
    starts: Plan | None = None
    member_result: MemberResult | None = None
    unique_claim: Key | None = None
    failed_steps: FailedSteps | None = None
    frees: Sequence[str] = ()
    error: BaseException | None = field(default=None, compare=False)
    hide: Callable[[str], str] | None = field(default_factory=HIDING.get, compare=False, repr=False)
    name: str | None = None

    @property
    def task_name(self) -> str:
        """The name of the task itself."""
        return self.name or self.task

    @property
    def outgoing(self) -> Sequence[TaskMessage]:
        """The messages to send."""
        started = self.starts.messages if self.starts is not None else ()
        return (*started, self.resend) if self.resend is not None else started


Settled = tuple[Delivery, Settlement]
"""A delivery and its outcome."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Outcomes on their way through the phases of a commit.

    `ready` have passed every phase so far, and after the last one may be disposed of. `failed`
    are to be committed again; `error` is the first reason.
    """

    ready: list[Settled]
    failed: list[Settled] = field(default_factory=list[Settled])
    error: ServiceError | None = None

    def fail(self, pairs: Sequence[Settled], error: ServiceError | None) -> None:
        """Move outcomes to `failed`: the later phases skip them.

        Makes `ready` a new list, so that a phase may call this while it goes through the old one.
        """
        gone = {id(pair) for pair in pairs}
        self.ready = [pair for pair in self.ready if id(pair) not in gone]
        self.failed += pairs
        self.error = self.error or error

    def add(self, other: Batch) -> None:
        """Take over the outcomes of another batch."""
        self.ready = [*self.ready, *other.ready]
        self.failed += other.failed
        self.error = self.error or other.error


ENDS = frozenset({Action.ACK, Action.DEAD_LETTER})
"""The actions after which a message is no longer in its queue."""


def unrecorded(
    message: TaskMessage,
    action: Action,
    *,
    reason: str = "",
    after: float = 0.0,
    resend: TaskMessage | None = None,
    member_result: MemberResult | None = None,
    failed_steps: FailedSteps | None = None,
) -> Settlement:
    """Make a settlement without a record."""
    ends = action in ENDS and resend is None
    return Settlement(
        action=action,
        task_id=message.id,
        task=message.task,
        reason=reason,
        after=after,
        resend=resend,
        member_result=member_result,
        failed_steps=failed_steps,
        unique_claim=unique_key(message) if ends and message.unique_key is not None else None,
        frees=payloads_of(message) if action is Action.ACK and resend is None else (),
    )


def unneeded(payloads: Sequence[str], starts: Plan) -> Sequence[str]:
    """Return those payloads of an ended call that the calls which it starts do not have.

    An error callback is given the arguments of the failed call.
    """
    named = [[m.args, m.kwargs, m.chain, m.link, m.link_error] for m in starts.messages]
    kept: Sequence[str] = imported("cloudq.messages.payloads").keys_in(named)
    return [key for key in payloads if key not in kept]


_COUNTS = ("retries", "replaced", "continued", "waits")
_NEW_TRY = frozenset({"retries", "replaced", "continued"})


def copy_of(message: TaskMessage, **changes: Any) -> TaskMessage:
    """Copy a message to send in its place, in a way that no broker takes for a duplicate.

    Raises `InvalidArguments` for a count that no message may have.
    """
    for name in _COUNTS:
        if name in changes and changes[name] > MOST:
            raise InvalidArguments(f"{message.task}: {name} is above {MOST:,}")
    if DELIVERED in message.headers and not _NEW_TRY.isdisjoint(changes):
        rest = {name: text for name, text in message.headers.items() if name != DELIVERED}
        changes = {"headers": rest, **changes}  # no earlier delivery was of this try
    return message.model_copy(update={"dedup_key": None, **changes})


_DIGITS = 10  # more than any number of deliveries has

DELIVERED = "cloudq-delivered"
"""The header of a copy with the number of deliveries of the message that it replaces."""


def delivered_before(message: TaskMessage) -> int:
    """Return how often the messages were delivered that a message is a copy of."""
    text = message.headers.get(DELIVERED, "")
    return int(text) if text.isdecimal() and len(text) < _DIGITS else 0


def come_back(message: TaskMessage, attempts: int, **changes: Any) -> TaskMessage:
    """Copy a message to send in place of one that was delivered so often, and has not ended.

    What an earlier delivery has claimed is then known to be the same call's.
    """
    headers = {**message.headers, DELIVERED: str(delivered_before(message) + attempts)}
    return copy_of(message, headers=headers, **changes)


def happened(delivery: Delivery, settlement: Settlement, now: float) -> Record:
    """Describe an outcome for its event, also one that leaves no record."""
    if settlement.record is not None:
        return settlement.record
    return Record(
        id=settlement.task_id,
        state=settlement.state or State.PENDING,
        task=settlement.task_name,
        queue=delivery.queue,
        error=settlement.reason or None,
        finished_at=now,
    )
