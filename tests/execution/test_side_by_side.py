"""Joins are left, records claimed and written side by side, each with an answer of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import ClassVar

import pytest

from cloudq import CloudQ
from cloudq.canvas.slots import MemberResult, Slot
from cloudq.driver import Delivery
from cloudq.execution.commit import commit
from cloudq.execution.leaving import leave_joins
from cloudq.execution.settlement import Action, Batch, Settled, Settlement
from cloudq.execution.side_by_side import side_by_side
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State
from cloudq.testing import FaultProxy
from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.servers import unique
from tests.support.forking import run_forking


class Together(_Handler):
    """Lets the first requests for some items pass together, and refuses others."""

    meeting: ClassVar[threading.Barrier]
    met: ClassVar[set[str]]
    refused: ClassVar[str]

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        request = json.loads(body)
        item = request.get("Key", {}).get("pk", {}).get("S", "").partition("#")[2]
        if item and item not in Together.met:
            Together.met.add(item)
            self.meeting.wait(PATIENCE)
        if item and item == self.refused:
            return 400, {}, b'{"__type": "AccessDeniedException", "message": "on purpose"}'
        return super()._passed_on(body)


@pytest.fixture
def app(aws: Endpoint) -> Iterator[CloudQ]:
    proxy = FaultProxy(aws.url)
    proxy._server.RequestHandlerClass = Together  # pyright: ignore[reportPrivateUsage]
    with proxy:
        backend = f"dynamodb://{unique('leaving')}?endpoint_url={proxy.url}"
        app = CloudQ("leaving", broker="memory://", backend=backend)
        assert app.backend is not None
        Together.met, Together.refused = set(), ""
        app.backend.driver.create_store()
        with closing(app):
            yield app
            app.backend.driver.client.delete_table(TableName=app.backend.driver._table)


def member(join: str, index: int = 0) -> Settled:
    id = f"{join}-{index}"
    record = Record(id=id, state=State.SUCCESS, value="1")
    delivery = Delivery(queue="default", id=id, body=b"", receipt=None, attempts=1, lease=60.0)
    left = MemberResult(slot=Slot(join=join, index=index), record=record)
    return delivery, Settlement(action=Action.ACK, task_id=id, record=record, member_result=left)


def test_joins_are_left_side_by_side(app: CloudQ) -> None:
    Together.meeting = threading.Barrier(3)
    batch = Batch(ready=[member(join) for join in ("a", "b", "c")])
    leave_joins(batch, app.workflows.joins)
    assert Together.met == {"a", "b", "c"}
    assert (len(batch.ready), batch.failed) == (3, [])


def test_the_failure_of_one_join_is_that_of_its_own_members(app: CloudQ) -> None:
    Together.meeting = threading.Barrier(1)
    Together.refused = "b"
    pairs = [member("a"), member("b", 0), member("c"), member("b", 1), member("d")]
    batch = Batch(ready=list(pairs))
    leave_joins(batch, app.workflows.joins)
    assert [s.task_id for _, s in batch.failed] == ["b-0", "b-1"]
    assert [s.task_id for _, s in batch.ready] == ["a-0", "c-0", "d-0"]
    assert batch.error is not None
    assert "on purpose" in str(batch.error)


def delivered(app: CloudQ, id: str) -> Delivery:
    body = encode(TaskMessage(id=id, task="t", queue="default"))
    return Delivery(queue="default", id=id, body=body, receipt=None, attempts=2, lease=60.0)


def test_what_is_redelivered_is_claimed_side_by_side(app: CloudQ) -> None:
    app.task(name="t")(print)
    Together.meeting = threading.Barrier(3)
    Together.refused = "b"
    opened = app.executor().sort([delivered(app, id) for id in ("a", "b", "c")])
    assert Together.met == {"a", "b", "c"}
    assert [job.message.id for job in opened.jobs] == ["a", "c"]
    assert all(job.fenced for job in opened.jobs)
    ended = [*opened.settled, *((delivery, None) for delivery in opened.waiting)]
    assert [delivery.id for delivery, _ in ended] == ["b"]


def test_records_that_are_fenced_are_written_side_by_side(app: CloudQ) -> None:
    app.task(name="t")(print)
    Together.meeting = threading.Barrier(3)
    Together.refused = "b"
    settled: list[Settled] = []
    for id in ("a", "b", "c"):
        record = Record(id=id, state=State.SUCCESS, value="1", fence=1)
        done = Settlement(action=Action.ACK, task_id=id, record=record, fenced=True)
        settled.append((delivered(app, id), done))
    batch = commit(settled, app.broker, app.backend)
    assert Together.met == {"a", "b", "c"}
    assert app.backend is not None
    records = app.backend.records(["a", "b", "c"])
    assert {id: record.state for id, record in records.items()} == {
        "a": State.SUCCESS,
        "c": State.SUCCESS,
    }
    assert {s.task_id for _, s in batch.ready} >= {"a", "c"}


def test_threads_are_kept_for_the_next_calls() -> None:
    names = set[str]()
    for _ in range(50):
        meeting = threading.Barrier(4)

        def meet(_: int, meeting: threading.Barrier = meeting) -> None:
            names.add(threading.current_thread().name)
            meeting.wait(PATIENCE)

        side_by_side(meet, range(4), billed=True)
    assert threading.current_thread().name in names
    assert len(names) < 20


def test_the_first_error_is_raised_after_all_calls() -> None:
    made = list[int]()

    def make(number: int) -> int:
        made.append(number)
        if number % 2:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match=r"^1$"):
        side_by_side(make, range(40), billed=True)
    assert sorted(made) == [*range(40)]
    assert side_by_side(str, range(40), billed=True) == [str(number) for number in range(40)]


def test_calls_that_make_calls_end_though_no_thread_is_free() -> None:
    def nested(depth: int) -> int:
        return 1 + sum(side_by_side(nested, [depth - 1] * 5, billed=True)) if depth else 1

    assert nested(4) == 1 + 5 + 25 + 125 + 625


def test_a_forked_process_has_threads_of_its_own() -> None:
    program = """
from cloudq.execution.side_by_side import side_by_side

def meet(meeting):
    side_by_side(lambda _: meeting.wait(20), range(4), billed=True)

meet(threading.Barrier(4))
print(forked(lambda: meet(threading.Barrier(4))))
meet(threading.Barrier(4))
"""
    assert run_forking(program, "memory://", "memory://", "q") == "0"
