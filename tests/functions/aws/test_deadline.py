"""The end of an invocation: what is not started, what is interrupted, and what is saved."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from cloudq import CloudQ
from cloudq.errors import SoftTimeLimitExceeded
from cloudq.results.record import State
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from tests.functions.aws.events import Context, EventSource


class Clock:
    """Stands still but for what a test adds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def state(app: CloudQ, task_id: str) -> State | None:
    assert app.backend is not None
    record = app.backend.record(task_id)
    return record.state if record else None


@pytest.mark.parametrize(
    ("time_limit", "reserve", "started"),
    [
        (None, 5, 3),  # after the third, 4 s are left
        (None, 1, 4),
        (3, 5, 4),  # its own limit is known, so that the reserve does not count
        (20, 5, 2),
        (600, 5, 2),  # half of the time is enough for anything
    ],
)
def test_a_task_starts_only_with_its_time_left(
    app: CloudQ, source: EventSource, time_limit: float | None, reserve: float, started: int
) -> None:
    clock, ran = Clock(), list[int]()

    @app.task(time_limit=time_limit)
    def slow(number: int) -> None:
        ran.append(number)
        clock.now += 12

    for number in range(5):
        slow.delay(number)
    event = source.take(5)
    handler = lambda_handler(app, reserve=reserve)
    reported = source.settle(handler(event, Context(40, clock)))
    assert len(ran) == started
    assert reported == list(range(started, 5))
    assert source.count() == (5 - started, 0, 0), "handed back at once"


def test_short_invocations_run_their_first_task(app: CloudQ, source: EventSource) -> None:
    clock = Clock()

    @app.task
    def work() -> None:
        clock.now += 2

    work.delay()
    work.delay()
    event = source.take(2)
    assert source.settle(lambda_handler(app, reserve=60)(event, Context(3, clock))) == [1]


def test_a_slow_task_is_interrupted_and_alone_reported(app: CloudQ, source: EventSource) -> None:
    @app.task
    def quick(number: int) -> int:
        return number

    @app.task
    def slow() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.01)

    results = [quick.delay(0)]
    hopeless = slow.delay()
    event = source.take(2)
    event["Records"].sort(key=lambda record: "slow" in record["body"])
    started = time.monotonic()
    reported = source.settle(lambda_handler(app)(event, Context(6)))
    assert time.monotonic() - started < PATIENCE, "left to itself it takes as long"
    assert reported == [1]
    assert results[0].get(timeout=1) == 0
    assert state(app, hopeless.id) is None
    assert source.count() == (1, 0, 0)


def test_an_interrupted_task_may_finish(app: CloudQ, source: EventSource) -> None:
    @app.task
    def careful() -> str:
        try:
            for _ in range(2000):
                time.sleep(0.01)
        except SoftTimeLimitExceeded:
            return "half"
        return "all"

    result = careful.delay()
    assert source.settle(lambda_handler(app)(source.take(1), Context(2))) == []
    assert result.get(timeout=1) == "half"


def test_the_limit_of_the_task_itself_is_its_failure(app: CloudQ, source: EventSource) -> None:
    @app.task(time_limit=0.3)
    def slow() -> None:
        for _ in range(2000):
            time.sleep(0.01)

    result = slow.delay()
    assert source.settle(lambda_handler(app)(source.take(1), Context(30))) == []
    assert state(app, result.id) is State.FAILURE


def test_an_async_task_is_interrupted(app: CloudQ, source: EventSource) -> None:
    @app.task
    async def slow() -> None:
        await asyncio.sleep(PATIENCE)

    slow.delay()
    started = time.monotonic()
    assert source.settle(lambda_handler(app)(source.take(1), Context(2))) == [0]
    assert time.monotonic() - started < PATIENCE, "left to itself it takes as long"


def test_what_finished_is_safe_when_a_task_cannot_be_interrupted(
    app: CloudQ, source: EventSource
) -> None:
    """A call that stays in C takes the invocation down: no response is sent at all."""
    stuck, leave = threading.Event(), threading.Event()

    @app.task
    def quick() -> int:
        return 1

    @app.task
    def hangs() -> None:
        stuck.set()
        leave.wait(PATIENCE)

    done = quick.delay()
    hanging = hangs.delay()
    event = source.take(2)
    event["Records"].sort(key=lambda record: "hangs" in record["body"])
    run = threading.Thread(target=lambda_handler(app), args=(event, Context(2)))
    run.start()
    assert stuck.wait(PATIENCE)
    assert done.get(timeout=PATIENCE) == 1
    _until(lambda: source.count() == (0, 0, 1), "the finished one is deleted already")
    assert run.is_alive()
    assert state(app, hanging.id) is None
    leave.set()
    run.join()


def test_what_finishes_late_beside_a_stuck_task_is_safe(app: CloudQ, source: EventSource) -> None:
    stuck, leave = threading.Event(), threading.Event()

    @app.task
    def careful() -> str:
        try:
            for _ in range(1000):
                time.sleep(0.01)
        except SoftTimeLimitExceeded:
            time.sleep(0.2)  # the batch is being saved
            return "half"
        return "all"

    @app.task
    def hangs() -> None:
        stuck.set()
        leave.wait(PATIENCE)

    late = careful.delay()
    hangs.delay()
    event = source.take(2)
    run = threading.Thread(target=lambda_handler(app, threads=2), args=(event, Context(3)))
    run.start()
    assert stuck.wait(PATIENCE)
    assert late.get(timeout=PATIENCE) == "half"
    _until(lambda: source.count() == (0, 0, 1), "the late one is deleted")
    assert run.is_alive()
    leave.set()
    run.join()


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
