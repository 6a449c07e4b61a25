"""Sets bundles of plain calls aside: those to which no rule applies that is one call's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cloudq import signals
from cloudq.driver.immutable import immutable
from cloudq.errors import BackendError
from cloudq.execution.bundles import Parcel
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.queue_rules import has_rules
from cloudq.execution.settlement import DELIVERED
from cloudq.messages.message import TaskMessage
from cloudq.messages.plain_calls import PlainCalls
from cloudq.results.record import Record, State
from cloudq.runtime import Runtime
from cloudq.schedules.run_id import SCHEDULE
from cloudq.tasks.limits.gate import Gate
from cloudq.tasks.task import Task

_NO_LIMITS = (None, None)
# The fields that say nothing of whether, when or how a call runs, nor of what follows it.
_PLAIN = frozenset(
    ("id", "task", "args", "kwargs", "queue", "sent_at", "root", "parent", "group", "depth")
) | {"headers"}


@immutable
class PlainParcel:
    """A bundle whose calls may all run, and what the records of their successes have in common."""

    parcel: Parcel
    calls: PlainCalls
    end: Record


class PlainBundles:
    """Tells which bundles are plain. Safe to use from many threads.

    Their calls are of one task, on a queue without order, come for the first time, and have no
    limit, no key, no time, and nothing that follows them; their successes are recorded, and nothing
    else of them; and nothing is recorded of any of them yet.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        outcomes: Outcomes,
        gate: Gate,
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._outcomes = outcomes
        self._gate = gate

    def taken(
        self, parcels: Sequence[Parcel], *, among_others: bool
    ) -> tuple[list[PlainParcel], list[Parcel]]:
        """Part the plain from the others, with one batched read of the store.

        Where requests are billed, and others are to be looked up, there is none for them alone.
        """
        found = [(parcel, plain) for parcel in parcels if (plain := self._plain(parcel))]
        backend = self._runtime.backend if found else None
        if backend is None:
            return [], list(parcels)
        if backend.driver.limits.billed and (among_others or len(found) < len(parcels)):
            return [], list(parcels)
        try:
            known = backend.bundles.read({parcel.name for parcel, _ in found}, consistent=False)
        except BackendError:  # the usual way finds out what, and waits
            return [], list(parcels)
        plain = [each for parcel, each in found if not known[parcel.name].is_known]
        chosen = {id(each.parcel) for each in plain}
        return plain, [parcel for parcel in parcels if id(parcel) not in chosen]

    def _plain(self, parcel: Parcel) -> PlainParcel | None:
        calls, whole = parcel.calls, parcel.whole
        if not isinstance(calls, PlainCalls) or len(calls) < 2 or whole.attempts != 1:
            return None
        first = calls[0]
        task = self._tasks.get(first.task)
        if task is None or first.queue != whole.queue or whole.group is not None:
            return None
        conf = self._runtime.conf
        if signals.task_received.connections or self._runtime.keeps_events or has_rules(conf):
            return None
        if not self._is_plain(first, task) or self._outcomes.stays_in_place(whole):
            return None
        end = self._outcomes.record(Job(delivery=whole, message=first), State.SUCCESS)
        return PlainParcel(parcel=parcel, calls=calls, end=replace(end, finished_at=None))

    def _is_plain(self, message: TaskMessage, task: Task[..., Any]) -> bool:
        outcomes, policy = self._outcomes, task.policy
        return not (
            not _PLAIN.issuperset(message.changed())
            or SCHEDULE in message.headers
            or DELIVERED in message.headers
            or policy.throttle is not None
            or policy.idempotent
            or self._gate.has_rates
            or outcomes.limits(message) != _NO_LIMITS
            or outcomes.tracks(task)
            or outcomes.ignores_result(message)
        )
