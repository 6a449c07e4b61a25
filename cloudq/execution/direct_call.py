"""Calls without a queue: a direct invocation, or the firing of a schedule that runs once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

from cloudq.driver import Delivery, Key
from cloudq.errors import DecodeError, Retry, UnknownTask
from cloudq.execution import idempotency
from cloudq.execution.invocation import Invocation
from cloudq.execution.settlement import Action, Settlement
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State
from cloudq.tasks.task import Task

log = logging.getLogger("cloudq.invocation")

T = TypeVar("T")

# A firing is remembered at least this long; the platforms give up retrying after a day.
_REMEMBERED = 2 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectCall:
    """One call out of an event: a message's fields, the queue of its retries, and who makes it.

    `firing` names what must run once although it may be invoked twice; `request` names the
    invocation, and is the same when the platform repeats it.
    """

    fields: Mapping[str, Any]
    queue: str
    request: str
    firing: str | None = None


def queue_of(fields: Mapping[str, Any], tasks: Mapping[str, Task[..., Any]], default: str) -> str:
    """Where the retries of a call go: its own queue, its task's, or the app's default."""
    task = tasks.get(str(fields["task"]))
    own = task.policy.queue if task else None
    return str(fields.get("queue") or own or default)


def firing_id(firing: str) -> str:
    """The task id of a firing: the same however often it is fired."""
    return str(uuid5(NAMESPACE_URL, f"cloudq/{firing}"))


def once(
    backend: Backend, firing: str, request: str, lasts: float, work: Callable[[], T]
) -> T | None:
    """Do the work of a firing; None, undone, if another request does or has done it.

    A request that dies leaves the firing to its own repetition at once, and to others after
    `lasts` seconds. Work that raises is not done.
    """
    key = Key(f"firing#{firing}")
    claimant = idempotency.Claimant(owner=request)
    claim = idempotency.claim(backend, key, claimant, min(lasts, _REMEMBERED))
    if not isinstance(claim, idempotency.Claimed):
        log.info("%s was fired twice: it runs once", firing)
        return None
    answer = work()
    backend.put([idempotency.completed(key, request, None, backend.clock() + _REMEMBERED)])
    return answer


def run_call(invocation: Invocation, call: DirectCall) -> dict[str, Any]:
    """Run a call and say what became of it; of a firing that has been run, or runs, say that.

    Raises when nothing durable came of it, so that whoever called tries again: `Retry`,
    `BackendError`, `BrokerError`; and for a call that can never run: `UnknownTask`, `DecodeError`.
    """
    backend = invocation.backend
    if call.firing is None or backend is None:
        return _run(invocation, call)
    lasts = invocation.deadline.remaining()
    answer = once(backend, call.firing, call.request, lasts, partial(_run, invocation, call))
    if answer is None:
        return {"duplicate": True} | _standing(backend, str(call.fields["id"]))
    return answer


def _run(invocation: Invocation, call: DirectCall) -> dict[str, Any]:
    executor, id = invocation.executor, str(call.fields["id"])
    delivery = Delivery(
        queue=call.queue,
        id=call.request,
        body=json.dumps(dict(call.fields)).encode(),
        receipt=None,
        attempts=1,
        lease=0.0,
    )
    jobs, settled = executor.open([delivery])
    settlement = invocation.deadline.run(executor, jobs[0]) if jobs else settled[0][1]
    if settlement.action is Action.DEAD_LETTER and settlement.state is None:
        undecodable = not settlement.task_id
        raise (DecodeError if undecodable else UnknownTask)(settlement.reason)
    batch = invocation.commit([(delivery, settlement)])
    if batch.failed and batch.error is not None:
        raise batch.error
    final = batch.ready[0][1]
    if final.action is Action.RELEASE:
        raise Retry(final.reason)
    if final.state is not settlement.state:  # its result was too large to keep
        return _standing(invocation.backend, id)
    record = settlement.record
    if record and record.terminal:
        return _answer(record)
    return _bare(invocation.backend, id, settlement)


def _bare(backend: Backend | None, id: str, settlement: Settlement) -> dict[str, Any]:
    """The answer where this run has left no record: it was done, sent on, or ignores results."""
    if settlement.state is not None:
        error = settlement.error
        name = {"error_type": type(error).__qualname__, "error": str(error)} if error else {}
        return {"id": id, "state": str(settlement.state)} | name
    return _standing(backend, id) | {"reason": settlement.reason}


def _standing(backend: Backend | None, id: str) -> dict[str, Any]:
    record = backend.record(id) if backend is not None else None
    return _answer(record or Record(id=id, state=State.PENDING))


def _answer(record: Record) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": record.id, "state": str(record.state)}
    if record.state is State.SUCCESS:
        answer["result"] = None if record.value is None else json.loads(record.value)
    if record.error is not None:
        answer |= {"error_type": record.error_type, "error": record.error}
    return answer
