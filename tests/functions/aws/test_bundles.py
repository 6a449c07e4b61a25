"""Bundles in a Lambda: their calls run one by one, and their record is reported whole or not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest

from cloudq import CloudQ, State, Task
from cloudq.errors import Reject
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from tests.functions.aws.events import Context, EventSource
from tests.functions.aws.test_deadline import Clock

NONE: dict[str, list[object]] = {"batchItemFailures": []}


def calls_in(event: dict[str, object]) -> list[int]:
    """The number of calls in each record."""
    records: list[dict[str, str]] = event["Records"]  # type: ignore[assignment]
    return [len(json.loads(record["body"]).get("calls", [0])) for record in records]


def states(app: CloudQ, ids: list[str]) -> list[State | None]:
    assert app.backend is not None
    app.backend.bundles.seen.forget()
    records = app.backend.records(ids)
    return [records[id].state if id in records else None for id in ids]


def test_all_calls_of_a_bundle_run_and_end(app: CloudQ, source: EventSource) -> None:
    @app.task
    def double(x: int) -> int:
        return 2 * x

    results = app.publish([double.prepare(x) for x in range(25)], bundle=10)
    event = source.take(3)
    assert sorted(calls_in(event)) == [5, 10, 10]
    assert source.settle(lambda_handler(app)(event, Context())) == []
    assert [result.get(timeout=PATIENCE) for result in results] == [2 * x for x in range(25)]
    assert source.count() == (0, 0, 0)


def test_the_ends_of_a_bundle_are_stored_in_one_request(app: CloudQ, source: EventSource) -> None:
    @app.task
    def double(x: int) -> int:
        return 2 * x

    app.publish([double.prepare(x) for x in range(20)], bundle=20)
    event = source.take(1)
    assert app.backend is not None
    written: list[str] = []

    def count(request: object, **_: object) -> None:
        written.append(str(getattr(request, "headers", {}).get("X-Amz-Target", "")))

    events = app.backend.driver.client.meta.events  # type: ignore[attr-defined]
    events.register("before-send.dynamodb", count)
    assert lambda_handler(app)(event, Context()) == NONE
    assert len([name for name in written if "Get" not in name]) <= 1


@pytest.mark.parametrize("threads", [1, 8])
def test_each_outcome_is_its_call_s_own(app: CloudQ, source: EventSource, threads: int) -> None:
    ran: list[int] = []

    @app.task(bind=True, max_retries=1, autoretry_for=(OSError,))
    def mixed(self: Task[..., int], x: int) -> int:
        ran.append(x)
        if x == 1:
            raise ValueError("no")
        if x == 2 and not self.request.retries:
            raise OSError("not yet")
        if x == 3:
            raise Reject("poison", requeue=False)
        return x

    results = app.publish([mixed.prepare(x) for x in range(6)], bundle=6)
    handler = lambda_handler(app, threads=threads)
    assert source.settle(handler(source.take(1), Context())) == []
    assert source.settle(handler(source.take(1), Context())) == [], "the retry, by itself"
    assert sorted(ran) == [0, 1, 2, 2, 3, 4, 5]
    ends = [State.SUCCESS, State.FAILURE, State.SUCCESS, State.REJECTED, State.SUCCESS]
    assert states(app, [result.id for result in results]) == [*ends, State.SUCCESS]
    [(body, reason)] = source.dead()
    assert json.loads(body)["id"] == results[3].id
    assert "poison" in reason
    assert source.count() == (0, 0, 0)


def test_threads_share_the_calls_of_a_bundle(app: CloudQ, source: EventSource) -> None:
    together = threading.Barrier(4)

    @app.task
    def meet() -> None:
        together.wait(PATIENCE)

    results = app.publish([meet.prepare() for _ in range(4)], bundle=4)
    assert lambda_handler(app, threads=4)(source.take(1), Context()) == NONE
    assert states(app, [result.id for result in results]) == [State.SUCCESS] * 4


def test_what_is_given_back_comes_as_a_smaller_bundle(app: CloudQ, source: EventSource) -> None:
    clock, ran = Clock(), list[int]()

    @app.task
    def slow(number: int) -> int:
        ran.append(number)
        clock.now += 12
        return number

    results = app.publish([slow.prepare(number) for number in range(5)], bundle=5)
    handler = lambda_handler(app, reserve=5)
    assert source.settle(handler(source.take(1), Context(40, clock))) == []
    assert ran == [0, 1, 2]
    event = source.take(1)
    assert calls_in(event) == [2]
    assert source.settle(handler(event, Context(40, clock))) == []
    assert ran == [0, 1, 2, 3, 4]
    assert [result.get(timeout=PATIENCE) for result in results] == [0, 1, 2, 3, 4]
    assert source.count() == (0, 0, 0)


def test_what_ends_late_is_deleted_with_its_rest_sent_on(app: CloudQ, source: EventSource) -> None:
    """A task keeps on past the time: what became of the bundle no longer hangs on the answer."""

    @app.task
    def stubborn(number: int) -> int:
        end = time.monotonic() + 2.0
        while number and time.monotonic() < end:
            try:
                time.sleep(0.01)
            except Exception:
                continue
        return number

    results = app.publish([stubborn.prepare(number) for number in range(4)], bundle=4)
    lambda_handler(app, reserve=0.5)(source.take(1), Context(1.5))
    event = source.take(1)
    assert calls_in(event) == [2]
    assert source.count() == (0, 0, 1), "the first message is deleted"
    assert states(app, [results[0].id]) == [State.SUCCESS]


def test_nothing_runs_again_of_a_bundle_that_comes_again(app: CloudQ, source: EventSource) -> None:
    """The answer of the function was lost."""
    ran: list[int] = []

    @app.task
    def note(number: int) -> None:
        ran.append(number)

    app.publish([note.prepare(number) for number in range(6)], bundle=6)
    event = source.take(1)
    handler = lambda_handler(app)
    assert handler(event, Context()) == NONE
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "2"
    assert handler(event, Context()) == NONE
    assert ran == [0, 1, 2, 3, 4, 5]


def test_a_bundle_is_reported_while_the_store_is_down(
    make_app: Callable[..., CloudQ], app: CloudQ, source: EventSource
) -> None:
    @app.task
    def note(number: int) -> int:
        return number

    results = app.publish([note.prepare(number) for number in range(3)], bundle=3)
    event = source.take(1)
    down = make_app(backend="dynamodb://t?endpoint_url=http://127.0.0.1:1")
    down.task(name=note.name)(lambda number: number)
    response = lambda_handler(down)(event, Context())
    assert source.settle(response) == [0]
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "2"
    assert source.settle(lambda_handler(app)(event, Context())) == []
    assert [result.get(timeout=PATIENCE) for result in results] == [0, 1, 2]


def test_a_call_that_cannot_be_buried_brings_its_bundle_back(app: CloudQ, queue: str) -> None:
    app.broker.driver.client.create_queue(QueueName=queue)  # type: ignore[attr-defined]
    source = EventSource(app, queue)
    ran: list[int] = []

    @app.task
    def reject(number: int) -> None:
        ran.append(number)
        if number == 1:
            raise Reject("poison", requeue=False)

    app.publish([reject.prepare(number) for number in range(3)], bundle=3)
    event = source.take(1)
    handler = lambda_handler(app)
    assert source.settle(handler(event, Context())) == [0]
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "2"
    handler(event, Context())
    assert ran == [0, 1, 2], "those that have ended do not run again"


def test_a_retry_in_its_place_keeps_the_rest_of_its_bundle_back(
    app: CloudQ, fifo: EventSource
) -> None:
    ran: list[int] = []

    @app.task(bind=True, queue=fifo.queue, max_retries=3, autoretry_for=(OSError,))
    def step(self: Task[..., int], number: int) -> int:
        ran.append(number)
        if number == 2 and not self.request.retries:
            raise OSError("not yet")
        return number

    results = app.publish(
        [step.options(group_key="a").prepare(number) for number in range(5)], bundle=5
    )
    later = step.options(group_key="a").delay(9)
    handler = lambda_handler(app, threads=4)
    assert fifo.settle(handler(fifo.take(2), Context())) == [0, 1]
    assert ran == [0, 1, 2]
    assert fifo.settle(handler(fifo.take(2), Context())) == []
    assert ran == [0, 1, 2, 2, 3, 4, 9]
    assert [result.get(timeout=PATIENCE) for result in (*results, later)] == [0, 1, 2, 3, 4, 9]
    assert fifo.count() == (0, 0, 0)
