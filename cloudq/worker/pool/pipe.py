"""What the supervisor and a child say to each other: lists of plain tuples, pickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, cast

from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult, Slot
from cloudq.driver import Delivery, Item, Key
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Settlement
from cloudq.messages.body import decode, encode
from cloudq.messages.codec import Codec
from cloudq.results.record import State, from_fields, to_fields

STOP = ("stop",)
READY = ("ready",)
# With a task's name, its soft and its hard time limit: others from now on.
LIMITS = "limits"

_ACTIONS: Mapping[str, Action] = {action.value: action for action in Action}
_STATES: Mapping[str, State] = {state.value: state for state in State}

PackedJob = tuple[int, str, str, bytes, int, "str | None", int, bool]


def pack_job(number: int, job: Job) -> PackedJob:
    delivery = job.delivery
    return (
        number,
        delivery.queue,
        delivery.id,
        delivery.body,
        delivery.attempts,
        delivery.group,
        job.message.retries,
        job.fenced,
    )


def unpack_job(packed: PackedJob, codec: Codec, limit: int) -> tuple[int, Job]:
    number, queue, name, body, attempts, group, retries, fenced = packed
    delivery = Delivery(
        queue=queue, id=name, body=body, receipt=number, attempts=attempts, lease=0.0, group=group
    )
    message = codec.decode(body, queue=queue, limit=limit)
    if message.queue != queue or message.retries != retries:
        message = message.model_copy(update={"queue": queue, "retries": retries})
    return number, Job(delivery=delivery, message=message, fenced=fenced)


def pack_settlement(number: int, settled: Settlement) -> tuple[Any, ...]:
    record, extra = settled.record, settled.extra
    return (
        number,
        settled.action.value,
        settled.task_id,
        settled.task,
        settled.state and settled.state.value,
        settled.reason,
        settled.after,
        settled.resend and encode(settled.resend),
        record and to_fields(record),
        settled.fenced,
        extra and (tuple(extra.key), dict(extra.fields), extra.expires),
        settled.drop and tuple(settled.drop),
        settled.unique_claim and tuple(settled.unique_claim),
        tuple(settled.failed_steps),
        _pack_workflow(settled) if settled.starts or settled.member_result else None,
    )


def unpack_settlement(packed: tuple[Any, ...]) -> tuple[int, Settlement]:
    number, action, task_id, task, state, reason, after, resend, record, fenced, extra = packed[:11]
    drop, unique_claim, failed_steps = packed[11:14]
    starts, member_result = _unpack_workflow(packed[-1], task_id) if packed[-1] else (None, None)
    return number, Settlement(
        action=_ACTIONS[action],
        task_id=task_id,
        task=task,
        state=_STATES[state] if state else None,
        reason=reason,
        after=after,
        # Our own copy: if it is too long by now, whoever receives it says so.
        resend=decode(resend, limit=len(resend)) if resend else None,
        record=from_fields(task_id, record) if record else None,
        fenced=fenced,
        extra=Item(key=Key(*extra[0]), fields=extra[1], expires=extra[2]) if extra else None,
        drop=Key(*drop) if drop else None,
        unique_claim=Key(*unique_claim) if unique_claim else None,
        failed_steps=failed_steps,
        starts=starts,
        member_result=member_result,
    )


def _pack_workflow(settled: Settlement) -> tuple[Any, ...]:
    plan, member_result = settled.starts or Plan(), settled.member_result
    items = [(tuple(item.key), dict(item.fields), item.expires) for item in plan.items]
    messages = [encode(message) for message in plan.messages]
    return (
        items,
        messages,
        member_result and (member_result.slot.to_wire(), to_fields(member_result.record)),
    )


def _unpack_workflow(
    packed: tuple[Any, ...], task_id: str
) -> tuple[Plan | None, MemberResult | None]:
    items, messages, member_result = packed
    plan = Plan(
        items=[Item(key=Key(*at), fields=fields, expires=until) for at, fields, until in items],
        messages=[decode(body, limit=len(body)) for body in messages],
    )
    if member_result is None:
        return plan, None
    record = from_fields(task_id, member_result[1])
    return plan, MemberResult(slot=Slot.from_wire(member_result[0]), record=record)


def send(connection: Connection, message: Sequence[Any]) -> None:
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Sequence[Any]:
    """The next message. Raises `EOFError` or `OSError` when the other side is gone."""
    return cast("Sequence[Any]", pickle.loads(connection.recv_bytes()))
