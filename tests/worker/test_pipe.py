"""Messages between a supervisor and its children."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult, Slot
from cloudq.driver import Delivery, Item, Key
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, FailedSteps, Settlement
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State
from cloudq.worker.pool import pipe

MESSAGE = TaskMessage(id="1", task="t", queue="q", args=[1, "two"])
RECORD = Record(id="1", state=State.SUCCESS, task="t", value="3", started_at=1.0, finished_at=2.0)
ITEM = Item(key=Key("join#j", "s1"), fields={"left": frozenset({"1"}), "n": 2}, expires=9.0)

FULL = Settlement(
    action=Action.ACK,
    task_id="1",
    task="t",
    state=State.SUCCESS,
    reason="as asked",
    after=1.5,
    resend=MESSAGE,
    record=RECORD,
    fenced=True,
    extra=ITEM,
    drop=Key("a", "b"),
    claim_fence=7,
    unique_claim=Key("c"),
    failed_steps=FailedSteps(because=RECORD, calls=[("2", "t")], stored=[{"more": "a", "at": 0}]),
    starts=Plan(items=[ITEM], messages=[MESSAGE]),
    member_result=MemberResult(slot=Slot(join="j", index=4), record=RECORD),
)
SHORT = Settlement(action=Action.RELEASE, after=2.0)


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    one, other = Pipe()
    yield one, other
    one.close()
    other.close()


def test_settlements_arrive_as_they_were(ends: tuple[Connection, Connection]) -> None:
    pipe.send(ends[0], [pipe.pack_settlement(n, s) for n, s in ((7, FULL), (8, SHORT))])
    arrived = pipe.receive(ends[1])
    assert all(isinstance(message, pipe.PackedSettlement) for message in arrived)
    assert [
        (message.number, pipe.unpack_settlement(message))
        for message in arrived
        if isinstance(message, pipe.PackedSettlement)
    ] == [(7, FULL), (8, SHORT)]


def test_a_job_arrives_with_its_own_queue_and_retries(ends: tuple[Connection, Connection]) -> None:
    delivery = Delivery(
        queue="other", id="d", body=encode(MESSAGE), receipt=1, attempts=3, lease=60.0, group="g"
    )
    message = MESSAGE.model_copy(update={"queue": "other", "retries": 2})
    job = Job(delivery=delivery, message=message, fenced=True)
    pipe.send(ends[0], [pipe.pack_job(5, job)])
    (packed,) = pipe.receive(ends[1])
    assert isinstance(packed, pipe.PackedJob)
    arrived = pipe.unpack_job(packed)
    assert (arrived.message, arrived.fenced) == (message, True)
    assert (arrived.delivery.attempts, arrived.delivery.group) == (3, "g")


@pytest.mark.parametrize(
    "message", [pipe.Ready(), pipe.Stop(), pipe.TimeLimits(task="t", soft=1.0, hard=None)]
)
def test_orders_keep_their_kind(ends: tuple[Connection, Connection], message: pipe.Message) -> None:
    pipe.send(ends[0], [message])
    (arrived,) = pipe.receive(ends[1])
    assert type(arrived) is type(message)
    assert arrived == message


def limits(number: int) -> pipe.TimeLimits:
    return pipe.TimeLimits(task=str(number), soft=1.0, hard=None)


def test_what_came_one_by_one_is_read_together(ends: tuple[Connection, Connection]) -> None:
    waiting = pipe.Waiting(ends[1])
    for number in range(30):
        pipe.send(ends[0], [limits(number)])
    assert waiting.receive(20) == [limits(number) for number in range(20)]
    assert waiting.receive(20) == [limits(number) for number in range(20, 30)]


def test_what_came_before_the_end_is_read_before_it(ends: tuple[Connection, Connection]) -> None:
    waiting = pipe.Waiting(ends[1])
    for number in range(3):
        pipe.send(ends[0], [limits(number)])
    ends[0].close()
    assert waiting.receive(20) == [limits(number) for number in range(3)]
    for _ in range(2):
        with pytest.raises(EOFError):
            waiting.receive(20)


def test_what_cannot_be_read_takes_nothing_with_it(ends: tuple[Connection, Connection]) -> None:
    waiting = pipe.Waiting(ends[1])
    pipe.send(ends[0], [limits(1)])
    ends[0].send_bytes(b"no pickle")
    pipe.send(ends[0], [limits(2)])
    assert waiting.receive(20) == [limits(1)]
    with pytest.raises(pickle.UnpicklingError):
        waiting.receive(20)
