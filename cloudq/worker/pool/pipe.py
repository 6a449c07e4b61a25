"""Messages between the supervisor and its children, pickled in batches.

A batch has one shape. It travels as the shape's name and plain tuples, since a pickled tuple is
smaller than an object and several times as fast.
"""

from __future__ import annotations

import pickle
import select
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult, Slot
from cloudq.driver import Delivery, Item, Key
from cloudq.execution.error_text import reason_of
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, FailedSteps, Settlement
from cloudq.messages.body import decode, encode
from cloudq.messages.message import TaskMessage, from_given_fields, given_fields
from cloudq.messages.plain_calls import PlainRow
from cloudq.results.record import Record, State, from_fields, to_fields
from cloudq.worker.in_flight import Cut, Ended
from cloudq.worker.options import WorkerOptions

Fields = Mapping[str, Any]
PackedItem = tuple[tuple[str, ...], Fields, float | None]
"""The key, the fields and the expiry of an item."""
PackedSteps = tuple[Fields, Sequence[tuple[str, str]], Sequence[Any]]
"""The record of the end, the calls that never come, and references to others in the store."""


class Setup(NamedTuple):
    """The first message to a child, sent by itself: its parent, its import path, its options."""

    parent: int
    path: Sequence[str]
    options: WorkerOptions


class PackedJob(NamedTuple):
    """A job on its way to a child: its number in the supervisor, its delivery, and its message.

    The fields of the message have been checked: a child need not read its body again.
    """

    number: int
    queue: str
    id: str
    attempts: int
    group: str | None
    sent_at: float | None
    fields: dict[str, Any]
    fenced: bool


class PackedSettlement(NamedTuple):
    """The outcome of the job of this number, which ran for `took` seconds, on its way back.

    `resend` and the second part of `starts` are encoded messages, the first part items to store.
    `member_result` is the slot of a chord's member and the fields of its record.
    """

    number: int
    action: str
    task_id: str
    task: str
    state: str | None
    reason: str
    after: float
    resend: bytes | None
    record: Fields | None
    fenced: bool
    extra: PackedItem | None
    drop: tuple[str, ...] | None
    claim_fence: int
    unique_claim: tuple[str, ...] | None
    failed_steps: PackedSteps | None
    starts: tuple[Sequence[PackedItem], Sequence[bytes]] | None
    member_result: tuple[str, Fields] | None
    frees: Sequence[str]
    name: str | None
    took: float


class PackedCut(NamedTuple):
    """Plain calls of one bundle on their way to a child.

    Their own parts are `rows`, of which the first is that of the call `start`; call 0 has the
    number `first` in the supervisor. `fields` have what their messages share.
    """

    first: int
    start: int
    queue: str
    id: str
    sent_at: float | None
    bundle: str
    fields: dict[str, Any]
    rows: Sequence[PlainRow]


class PackedEnds(NamedTuple):
    """Plain calls of a cut that have succeeded, on their way back."""

    first: int
    start: int
    ends: list[Ended]


class TimeLimits(NamedTuple):
    """New time limits of a task, in seconds, for calls that start from now on."""

    task: str
    soft: float | None
    hard: float | None


class Stop(NamedTuple):
    """Tells a child to leave."""


class Requests(NamedTuple):
    """Requests that a child has made since it last told: see `Spot` and `Spent`."""

    call: str
    place: str
    price: str
    requests: float
    items: float
    units: float


class Ready(NamedTuple):
    """Tells the supervisor that a child takes jobs."""


Message = (
    PackedJob | PackedCut | PackedSettlement | PackedEnds | TimeLimits | Stop | Requests | Ready
)

_SHAPES: Mapping[str, type[Message]] = {
    "jobs": PackedJob,
    "cuts": PackedCut,
    "settlements": PackedSettlement,
    "ends": PackedEnds,
    "limits": TimeLimits,
    "stop": Stop,
    "requests": Requests,
    "ready": Ready,
}
_NAMES = {shape: name for name, shape in _SHAPES.items()}
_ACTIONS: Mapping[str, Action] = {action.value: action for action in Action}
_STATES: Mapping[str, State] = {state.value: state for state in State}


def send(connection: Connection, batch: Sequence[Message]) -> None:
    """Write messages of one shape. Raises `OSError` when the other side is gone."""
    name = _NAMES[type(batch[0])]
    rows = [tuple(message) for message in batch]
    connection.send_bytes(pickle.dumps((name, rows), pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> list[Message]:
    """Read the next batch. Raises `EOFError` or `OSError` when the other side is gone."""
    name, rows = pickle.loads(connection.recv_bytes())
    return list(map(_SHAPES[name]._make, rows))


class Waiting:
    """Reads from a connection what has come already in one go, since much comes one by one.

    What cannot be read is told at the next call, after all that came before it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)
        self._error: Exception | None = None

    def receive(self, most: int) -> list[Message]:
        """Read as `receive` does, and on until nothing is there or there are so many messages."""
        if self._error is not None:
            raise self._error
        messages = receive(self._connection)
        try:
            while len(messages) < most and self._poll.poll(0):
                messages += receive(self._connection)
        except Exception as error:
            self._error = error
        return messages


def pack_job(number: int, job: Job) -> PackedJob:
    """Pack the job of a delivery that has this number in the supervisor."""
    delivery = job.delivery
    return PackedJob(
        number,
        delivery.queue,
        delivery.id,
        delivery.attempts,
        delivery.group,
        delivery.sent_at,
        given_fields(job.message),
        job.fenced,
    )


def pack_cut(cut: Cut) -> PackedCut:
    """Pack plain calls that come for the first time."""
    tray = cut.tray
    whole, calls = tray.parcel.whole, tray.calls
    return PackedCut(
        tray.first,
        cut.start,
        whole.queue,
        whole.id,
        whole.sent_at,
        calls.bundle,
        calls.fields,
        calls.rows[cut.start : cut.stop],
    )


def unpack_job(packed: PackedJob) -> Job:
    """Make the job anew. Its delivery has no body, which stays with the supervisor."""
    delivery = Delivery(
        queue=packed.queue,
        id=packed.id,
        body=b"",
        receipt=packed.number,
        attempts=packed.attempts,
        lease=0.0,
        group=packed.group,
        sent_at=packed.sent_at,
    )
    message = from_given_fields(packed.fields)
    return Job(delivery=delivery, message=message, fenced=packed.fenced)


def pack_settlement(number: int, settled: Settlement, took: float = 0.0) -> PackedSettlement:
    """Pack the outcome of the job of this number, which ran for `took` seconds."""
    starts, member = settled.starts, settled.member_result
    return PackedSettlement(
        number,
        str(settled.action),
        settled.task_id,
        settled.task,
        settled.state and str(settled.state),
        settled.reason,
        settled.after,
        encode(settled.resend) if settled.resend else None,
        to_fields(settled.record) if settled.record else None,
        settled.fenced,
        _pack_item(settled.extra) if settled.extra else None,
        tuple(settled.drop) if settled.drop else None,
        settled.claim_fence,
        tuple(settled.unique_claim) if settled.unique_claim else None,
        _pack_steps(settled.failed_steps) if settled.failed_steps else None,
        _pack_plan(starts) if starts else None,
        (member.slot.to_wire(), to_fields(member.record)) if member else None,
        settled.frees,
        settled.name,
        took,
    )


def unpack_settlement(packed: PackedSettlement) -> Settlement:
    """Make the settlement anew; its error, and what its plan says of publishing, stay behind."""
    task_id = packed.task_id
    return Settlement(
        action=_ACTIONS[packed.action],
        task_id=task_id,
        task=packed.task,
        state=_STATES[packed.state] if packed.state else None,
        reason=packed.reason,
        after=packed.after,
        resend=_own(packed.resend) if packed.resend else None,
        record=from_fields(task_id, packed.record) if packed.record else None,
        fenced=packed.fenced,
        extra=_unpack_item(packed.extra) if packed.extra else None,
        drop=Key(*packed.drop) if packed.drop else None,
        claim_fence=packed.claim_fence,
        unique_claim=Key(*packed.unique_claim) if packed.unique_claim else None,
        failed_steps=_unpack_steps(task_id, *packed.failed_steps) if packed.failed_steps else None,
        starts=_unpack_plan(*packed.starts) if packed.starts else None,
        member_result=_unpack_member(task_id, *packed.member_result)
        if packed.member_result
        else None,
        frees=packed.frees,
        name=packed.name,
    )


def spoiled(packed: PackedSettlement, error: BaseException) -> Settlement:
    """Fail the task of an outcome that `unpack_settlement` cannot read."""
    reason = f"its outcome could not be read: {reason_of(error)}"
    record = Record(
        id=packed.task_id,
        state=State.FAILURE,
        task=packed.name or packed.task,
        error_type="cloudq.errors.CloudQError",
        error=reason,
        dead_lettered=True,
    )
    return Settlement(
        action=Action.DEAD_LETTER,
        task_id=packed.task_id,
        task=packed.task,
        name=packed.name,
        state=State.FAILURE,
        reason=reason,
        record=record if packed.task_id else None,
    )


def _own(body: bytes) -> TaskMessage:
    """Decode a message of our own. If it is too long by now, whoever receives it says so."""
    return decode(body, limit=len(body))


def _pack_item(item: Item) -> PackedItem:
    return tuple(item.key), dict(item.fields), item.expires


def _unpack_item(packed: PackedItem) -> Item:
    key, fields, expires = packed
    return Item(key=Key(*key), fields=fields, expires=expires)


def _pack_plan(plan: Plan) -> tuple[list[PackedItem], list[bytes]]:
    return [_pack_item(item) for item in plan.items], [encode(each) for each in plan.messages]


def _unpack_plan(items: Sequence[PackedItem], messages: Sequence[bytes]) -> Plan:
    return Plan(items=[_unpack_item(item) for item in items], messages=[_own(m) for m in messages])


def _unpack_member(task_id: str, slot: str, fields: Fields) -> MemberResult:
    return MemberResult(slot=Slot.from_wire(slot), record=from_fields(task_id, fields))


def _pack_steps(steps: FailedSteps) -> PackedSteps:
    return to_fields(steps.because), list(steps.calls), list(steps.stored)


def _unpack_steps(
    task_id: str, because: Fields, calls: Sequence[tuple[str, str]], stored: Sequence[Any]
) -> FailedSteps:
    return FailedSteps(because=from_fields(task_id, because), calls=calls, stored=stored)
