"""Settlements: the outcome of a delivery as data. `commit` carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult
from cloudq.driver import Code, Delivery, Item, Key
from cloudq.errors import InvalidArguments
from cloudq.messages.message import MOST, TaskMessage
from cloudq.results.record import Record, State
from cloudq.tasks.limits.unique import unique_key

NEVER = frozenset({Code.INVALID, Code.TOO_LARGE})
"""The codes of requests that a service will never accept: they are no outage."""


class Action(StrEnum):
    """The ways to settle a message."""

    ACK = "ack"
    RELEASE = "release"  # it comes back after `after` seconds
    DEAD_LETTER = "dead-letter"  # with `reason`
    NOTHING = "nothing"  # another process has the message by now


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The outcome of one delivery.

    `state` is the new state of the task, None if it does not change. `record` is written whole,
    or, when `fenced`, only if no later delivery and no end is recorded; `extra` is stored and
    `drop` deleted along with it. `starts` is the workflow that follows, sent before the record is
    written. After the record, `member_result` is reported to the task's chord, `unique_claim`, the
    claim of a unique call, is ended, and `failed_steps`, the ids of the steps of its chain that
    will never run, are recorded as failed. `error` stays in this process. `name` is that of the
    task where `task` is another name for it in logs.
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
    drop: Key | None = None
    starts: Plan | None = None
    member_result: MemberResult | None = None
    unique_claim: Key | None = None
    failed_steps: Sequence[str] = ()
    error: BaseException | None = field(default=None, compare=False)
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

_ENDS = frozenset({Action.ACK, Action.DEAD_LETTER})


def unrecorded(
    message: TaskMessage,
    action: Action,
    *,
    reason: str = "",
    after: float = 0.0,
    resend: TaskMessage | None = None,
    member_result: MemberResult | None = None,
) -> Settlement:
    """Make a settlement without a record."""
    ends = action in _ENDS and resend is None
    return Settlement(
        action=action,
        task_id=message.id,
        task=message.task,
        reason=reason,
        after=after,
        resend=resend,
        member_result=member_result,
        unique_claim=unique_key(message) if ends and message.unique_key is not None else None,
    )


_COUNTS = ("retries", "replaced", "continued", "waits")


def copy_of(message: TaskMessage, **changes: Any) -> TaskMessage:
    """Copy a message to send in its place, in a way that no broker takes for a duplicate.

    Raises `InvalidArguments` for a count that no message may have.
    """
    for name in _COUNTS:
        if name in changes and changes[name] > MOST:
            raise InvalidArguments(f"{message.task}: {name} is above {MOST:,}")
    return message.model_copy(update={"dedup_key": None, **changes})
