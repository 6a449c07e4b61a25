"""Runs one of equal calls: it holds their claim while it runs, and the others wait or are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from cloudq.canvas.freeze import last
from cloudq.errors import Replaced
from cloudq.execution import idempotency
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.settlement import Settlement, delivered_before
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.runtime import Runtime
from cloudq.tasks.limits.gate import Gate
from cloudq.tasks.limits.renewer import Held, LeaseRenewer
from cloudq.tasks.signature import Node
from cloudq.tasks.task import Task

# How long a call waits while an equal call runs, in seconds.
_BUSY_AFTER = 5.0
# A claim lasts so many seconds, and is renewed while its call runs longer.
_LEASE = 3600.0
# A call ends, and its end is stored, within so many seconds of its hard limit: that of a short one
# is never renewed.
_AFTER_LIMIT = 30.0


class HeldClaim(Held):
    """The claim of a call, renewed within its block; the store keeps it until it is settled."""

    kind = "claim"

    def __init__(
        self,
        backend: Backend,
        claimed: idempotency.Claimed,
        claimant: idempotency.Claimant,
        lease: float,
        renewer: LeaseRenewer | None,
    ) -> None:
        super().__init__(claimed.key, lease)
        self.claimed = claimed
        self.backend = backend
        self._claimant = claimant
        self._renewer = renewer

    def renew(self) -> bool:
        """Have the claim last for its lease again; False if another delivery has it by now."""
        return idempotency.renew(self.backend, self.key, self._claimant, self.lease)

    def __enter__(self) -> Self:
        if self._renewer is not None:
            self._renewer.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._renewer is not None:
            self._renewer.remove(self)


class EqualCalls:
    """The claims of one executor's idempotent calls. Safe to use from many threads."""

    def __init__(self, runtime: Runtime, outcomes: Outcomes, gate: Gate) -> None:
        self._runtime = runtime
        self._outcomes = outcomes
        self._gate = gate

    def claim(
        self,
        backend: Backend | None,
        job: Job,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        delivery: str,
    ) -> HeldClaim | Settlement | None:
        """Claim the key of a call, or settle it by its equal; None if there is no such key.

        `delivery` is a name of its delivery. Raises `BackendError`, and what the task's key
        function raises.
        """
        key = idempotency.key_of(job.message, task, args, kwargs)
        if key is None or backend is None:
            return None
        hard = self._outcomes.limits_of(job)[1]
        sent_at = job.delivery.sent_at
        claimant = idempotency.Claimant(
            owner=job.message.id,
            fence=job.fence,
            delivery=delivery,
            call=job.message.call,
            sent=None if sent_at is None else round(sent_at * 1000),
            stands_in=delivered_before(job.message) > 0,
        )
        is_short = hard is not None and hard + _AFTER_LIMIT <= _LEASE
        lease = hard + _AFTER_LIMIT if hard is not None and is_short else _LEASE
        claim = idempotency.claim(backend, key, claimant, lease)
        if isinstance(claim, idempotency.Busy):
            return self._outcomes.later(
                job, _BUSY_AFTER, f"an equal call, {claim.owner}, is running"
            )
        if isinstance(claim, idempotency.Done):
            return idempotency.answered(self._outcomes, job, claim)
        renewer = None if is_short else self._gate.renewer
        return HeldClaim(backend, claim, claimant, lease, renewer)

    def settled(self, settlement: Settlement, message: TaskMessage, claim: HeldClaim) -> Settlement:
        """Complete the claim, keep it or drop it, by the end of its call."""
        now, most = claim.backend.clock(), self._runtime.conf.idempotency_expires
        if not isinstance(settlement.error, Replaced) or settlement.starts is None:
            return idempotency.settled(settlement, claim.claimed, now + most)
        key, fence = claim.key, claim.claimed.fence
        if not self._is_recorded(message, settlement.error.node):
            # Nothing would tell of its end, for which equal calls would wait.
            done = idempotency.completed(key, message.id, None, now + most, fence=fence)
            return replace(settlement, extra=done, claim_fence=fence)
        # The last call of the replacement has this call's id, so its record is this call's end,
        # and is kept for longer than the claim.
        started = settlement.starts.messages
        call = started[0].call if started else message.call
        until = now + min(most, claim.backend.expires)
        kept = idempotency.kept(key, message.id, call, until, fence=fence)
        return replace(settlement, extra=kept, claim_fence=fence)

    def _is_recorded(self, message: TaskMessage, node: Node[Any]) -> bool:
        """Tell whether the end of a replacement is recorded: a group has a last call of its own."""
        calls = last(node)
        if len(calls) != 1:
            return not self._runtime.conf.task_ignore_result
        end = {"task": calls[0].task, "ignore_result": calls[0].options.get("ignore_result")}
        return not self._outcomes.ignores_result(message.model_copy(update=end))
