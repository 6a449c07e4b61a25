"""Runs calls without a queue: direct invocations, and firings of schedules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, TypeVar
from uuid import NAMESPACE_URL, uuid5

from cloudq.driver import Delivery, Key
from cloudq.driver.log import Log
from cloudq.errors import DecodeError, Retry, UnknownTask
from cloudq.execution import idempotency
from cloudq.execution.invocation import Invocation
from cloudq.execution.settlement import Action, Settlement
from cloudq.messages.json_text import check_levels
from cloudq.publishing.builder import MessageBuilder
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State
from cloudq.tasks.call_options import NO_OPTIONS
from cloudq.tasks.secrecy import hiding
from cloudq.text import hidden

log = Log("cloudq.invocation")

T = TypeVar("T")

# How long a firing is remembered, in seconds; platforms stop retrying after a day.
_REMEMBERED = 2 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectCall:
    """One call from an event: a message's fields, and the queue of its retries.

    `firing` names a firing that must run once even if it is invoked twice. `request` names the
    invocation, and stays the same when the platform repeats it.
    """

    fields: Mapping[str, Any]
    queue: str
    request: str
    firing: str | None = None


def queue_of(fields: Mapping[str, Any], builder: MessageBuilder) -> str:
    """Return the queue of a call's retries: its own, or the one that the call would be sent to."""
    if fields.get("queue"):
        return str(fields["queue"])
    # Arguments of another kind make the call undecodable; that is reported when it is run.
    args: Sequence[Any] = given if _is_list(given := fields.get("args")) else ()
    kwargs: Mapping[str, Any] = named if _is_mapping(named := fields.get("kwargs")) else {}
    return builder.queue_of(str(fields["task"]), args, kwargs, NO_OPTIONS)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def firing_id(firing: str) -> str:
    """Make the task id of a firing: the same each time it is fired."""
    return str(uuid5(NAMESPACE_URL, f"cloudq/{firing}"))


def once(
    backend: Backend, firing: str, request: str, lasts: float, work: Callable[[], T]
) -> T | None:
    """Do the work of a firing once; return None if another request does it, or has done it.

    If a request dies, its own repetition may do the work at once, and other requests after
    `lasts` seconds. Work that raises counts as not done.
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
    """Run a call and return its outcome; for a firing that runs or has run, its state.

    Raises `Retry`, `BackendError` or `BrokerError` when nothing durable came of it, so that the
    caller tries again; and `UnknownTask` or `DecodeError` for a call that can never run.
    """
    backend = invocation.backend
    if call.firing is None or backend is None:
        return _run(invocation, call)
    lasts = invocation.deadline.remaining()
    answer = once(backend, call.firing, call.request, lasts, partial(_run, invocation, call))
    if answer is None:
        return {"duplicate": True} | _standing(backend, str(call.fields["id"]))
    return answer


def _body(call: DirectCall) -> bytes:
    fields = dict(call.fields)
    check_levels(fields)
    return json.dumps(fields).encode()


def _run(invocation: Invocation, call: DirectCall) -> dict[str, Any]:
    executor, id = invocation.executor, str(call.fields["id"])
    delivery = Delivery(
        queue=call.queue,
        id=call.request,
        body=_body(call),
        receipt=None,
        attempts=1,
        lease=0.0,
    )
    jobs, settled = executor.open([delivery])
    settlement = invocation.deadline.run(executor, jobs[0]) if jobs else settled[0][1]
    if not jobs and isinstance(settlement.error, UnknownTask | DecodeError):
        raise settlement.error
    if settlement.action is Action.DEAD_LETTER and settlement.state is None:
        raise DecodeError(settlement.reason)
    batch = invocation.commit([(delivery, settlement)])
    if batch.failed and batch.error is not None:
        raise batch.error
    final = batch.ready[0][1]
    if final.action is Action.RELEASE:
        raise Retry(final.reason)
    if final.state is not settlement.state:  # its result was too large to store
        return _standing(invocation.backend, id)
    record = settlement.record
    if record and record.terminal:
        return _answer(record)
    return _bare(invocation.backend, id, settlement)


def _bare(backend: Backend | None, id: str, settlement: Settlement) -> dict[str, Any]:
    """Make the answer of a run that left no record: done before, sent on, or without a result."""
    if settlement.state is not None:
        error = settlement.error
        answer = {"id": id, "state": str(settlement.state)}
        if error is None:
            return answer
        with hiding(settlement.hide):
            return answer | {"error_type": type(error).__qualname__, "error": hidden(str(error))}
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
