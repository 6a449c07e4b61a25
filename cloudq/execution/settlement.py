"""Settlements: the outcome of a delivery as data. `commit` carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult
from cloudq.driver import Delivery, Item, Key
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State
from cloudq.tasks.limits.unique import unique_key


class Action(StrEnum):
    """What happens to the message."""

    ACK = "ack"
    RELEASE = "release"  # it comes back after `after` seconds
    DEAD_LETTER = "dead-letter"  # with `reason`
    NOTHING = "nothing"  # it belongs to someone else by now


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The outcome of one delivery.

    `state` is what became of the task, None where nothing is to be said of it. `record` is
    written whole, or, when `fenced`, only if no later delivery and no end is recorded. `extra`
    is stored and `drop` deleted along with it. `starts` is what the end starts, sent before it is
    recorded; `member_result` is left at the task's join afterwards, and `unique_claim`, the claim
    of a unique call, is ended. `failed_steps` are the ids that fail with it: the steps of its chain
    that never come. `error` stays in this process.
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

    @property
    def outgoing(self) -> Sequence[TaskMessage]:
        """All that is to be sent."""
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
    """A settlement that records nothing."""
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


def copy_of(message: TaskMessage, **changes: Any) -> TaskMessage:
    """A copy to send in place of the message; the broker must not take it for a duplicate."""
    return message.model_copy(update={"dedup_key": None, **changes})
