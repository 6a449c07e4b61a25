"""Calls without a queue: direct invocations, EventBridge Scheduler, EventBridge rules."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.errors import BackendError, ConfigurationError, DecodeError, Reject, Retry, UnknownTask
from cloudq.results.record import State
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from tests.functions.aws.events import Context, EventSource
from tests.servers import unique

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


class Invocation(Context):
    """Each with an id of its own, as Lambda has it."""

    def __init__(self, timeout: float = 60.0) -> None:
        super().__init__(timeout)
        self.aws_request_id = unique("request")


@pytest.fixture
def ran() -> list[int]:
    return []


@pytest.fixture
def handler(app: CloudQ, ran: list[int]) -> Handler:
    @app.task(name="double")
    def double(x: int) -> int:
        ran.append(x)
        return 2 * x

    @app.task(name="shaky", max_retries=1, autoretry_for=(ValueError,))
    def shaky() -> None:
        raise ValueError("not yet")

    @app.task(name="broken", max_retries=0)
    def broken() -> None:
        raise ValueError("no")

    @app.task(name="requeued")
    def requeued() -> None:
        raise Reject("later", requeue=True)

    return lambda_handler(app)


def test_a_call_runs_now_and_answers(app: CloudQ, handler: Handler, ran: list[int]) -> None:
    context = Invocation()
    answer = handler({"task": "double", "args": [21]}, context)
    assert answer == {"id": context.aws_request_id, "state": "SUCCESS", "result": 42}
    assert app.AsyncResult(answer["id"]).get(timeout=1) == 42
    named = handler({"v": 1, "id": unique(), "task": "double", "kwargs": {"x": 4}}, Invocation())
    assert named["result"] == 8
    assert ran == [21, 4]


def test_a_call_by_hand_needs_no_context(handler: Handler) -> None:
    assert handler({"task": "double", "args": [1]}, None)["result"] == 2


def test_the_retry_of_an_invocation_does_not_run_again(handler: Handler, ran: list[int]) -> None:
    context = Invocation()
    first = handler({"task": "double", "args": [1]}, context)
    second = handler({"task": "double", "args": [1]}, context)
    assert second == first | {"reason": "already done"}
    assert ran == [1]


def test_a_failure_for_good_is_an_answer(app: CloudQ, handler: Handler) -> None:
    answer = handler({"task": "broken"}, Invocation())
    assert (answer["state"], answer["error_type"], answer["error"]) == (
        "FAILURE",
        "ValueError",
        "no",
    )
    assert app.AsyncResult(answer["id"]).state == State.FAILURE


def test_a_retry_goes_to_the_queue(handler: Handler, source: EventSource) -> None:
    answer = handler({"task": "shaky"}, Invocation())
    assert answer["state"] == "RETRY"
    assert answer["error_type"] == "ValueError"
    body = source.take(1)["Records"][0]["body"]
    assert f'"id":"{answer["id"]}"' in body
    assert '"retries":1' in body


def test_arguments_are_checked(handler: Handler, ran: list[int]) -> None:
    answer = handler({"task": "double", "args": [1, 2, 3]}, Invocation())
    assert answer["state"] == "FAILURE"
    assert answer["error_type"] == "cloudq.errors.InvalidArguments"
    assert ran == []


def test_what_can_never_run_raises(handler: Handler) -> None:
    with pytest.raises(UnknownTask, match="unknown task 'nope': is its module"):
        handler({"task": "nope"}, Invocation())
    with pytest.raises(DecodeError, match="args"):
        handler({"task": "double", "args": 5}, Invocation())
    with pytest.raises(DecodeError, match="unknown version 9"):
        handler({"v": 9, "task": "double"}, Invocation())


def test_what_came_to_nothing_raises_so_that_lambda_tries_again(
    handler: Handler, make_app: Callable[..., CloudQ]
) -> None:
    with pytest.raises(Retry, match="later"):
        handler({"task": "requeued"}, Invocation())
    down = make_app(backend="dynamodb://cloudq?endpoint_url=http://127.0.0.1:1")
    down.task(name="double")(lambda x: x)
    with pytest.raises(BackendError):
        lambda_handler(down)({"task": "double", "args": [1]}, Invocation())


def test_an_outcome_that_cannot_be_stored_raises(app: CloudQ, handler: Handler) -> None:
    assert app.backend is not None
    client = app.backend.driver.client  # type: ignore[attr-defined]

    def refuse(**_: object) -> None:
        raise ConnectionError("the store is down")

    client.meta.events.register("before-send.dynamodb.BatchWriteItem", refuse)
    with pytest.raises(BackendError, match="the store is down"):
        handler({"task": "double", "args": [1]}, Invocation())


def test_a_call_that_the_invocation_interrupts_raises(app: CloudQ) -> None:
    @app.task(name="slow")
    def slow() -> None:
        while True:
            threading.Event().wait(0.01)

    context = Invocation(1)
    with pytest.raises(Retry, match="interrupted"):
        lambda_handler(app)({"task": "slow"}, context)
    assert app.AsyncResult(context.aws_request_id).state == State.PENDING


def test_a_retry_that_cannot_be_sent_raises(
    app: CloudQ, handler: Handler, fifo: EventSource
) -> None:
    call = {"task": "later", "queue": fifo.queue}

    @app.task(name="later", max_retries=1, default_retry_delay=9, autoretry_for=(ValueError,))
    def later() -> None:
        raise ValueError("not yet")

    with pytest.raises(Retry, match="not yet"):
        handler(call, Invocation())


def test_a_firing_runs_once(handler: Handler, ran: list[int]) -> None:
    def event(day: int) -> dict[str, Any]:
        schedule = {"name": name, "time": f"2026-01-0{day}T00:00:00Z", "execution": unique()}
        return {"task": "double", "args": [day], "schedule": schedule}

    name = unique()
    first = handler(event(1), Invocation())
    again = handler(event(1), Invocation())
    other = handler(event(2), Invocation())
    assert again == {"duplicate": True} | first
    assert ran == [1, 2]
    assert other["id"] != first["id"]


def test_a_firing_without_a_result_is_remembered_too(app: CloudQ) -> None:
    ran: list[int] = []

    @app.task(name="quiet", ignore_result=True)
    def quiet() -> None:
        ran.append(1)

    handler = lambda_handler(app)
    event = {"task": "quiet", "schedule": {"name": unique(), "time": "2026-01-01T00:00:00Z"}}
    handler(event, Invocation(1))
    time.sleep(1.1)  # the claim ends with its invocation
    assert handler(event, Invocation())["duplicate"]
    assert ran == [1]


def test_two_firings_at_once_run_once(app: CloudQ) -> None:
    started, leave = threading.Event(), threading.Event()
    ran: list[int] = []

    @app.task(name="nightly")
    def nightly() -> int:
        ran.append(1)
        started.set()
        leave.wait(PATIENCE)
        return 7

    handler = lambda_handler(app)
    event = {"task": "nightly", "schedule": {"name": unique(), "time": "2026-01-01T00:00:00Z"}}
    first = threading.Thread(target=handler, args=(event, Invocation()))
    first.start()
    assert started.wait(PATIENCE)
    second = handler(event, Invocation())
    leave.set()
    first.join()
    assert second["duplicate"]
    assert second["state"] == "PENDING"
    assert ran == [1]
    assert handler(event, Invocation())["result"] == 7


def test_a_firing_whose_process_died_is_for_its_own_retry(
    app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    @app.task(name="nightly")
    def nightly() -> None:
        ran.append(1)

    event = {"task": "nightly", "schedule": {"name": unique(), "time": "2026-01-01T00:00:00Z"}}
    context = Invocation()
    handler = lambda_handler(app)
    assert app.backend is not None
    client = app.backend.driver.client  # type: ignore[attr-defined]

    def die(**_: object) -> None:
        raise KeyboardInterrupt

    client.meta.events.register("before-send.dynamodb.BatchGetItem", die)
    with pytest.raises(KeyboardInterrupt):
        handler(event, context)
    client.meta.events.unregister("before-send.dynamodb.BatchGetItem", die)
    assert handler(event, Invocation())["duplicate"]
    assert handler(event, context)["state"] == "SUCCESS"
    assert ran == [1]


def test_a_schedule_that_nobody_fills_in_runs_each_time(handler: Handler, ran: list[int]) -> None:
    schedule = {"name": "nightly", "time": "<aws.scheduler.scheduled-time>"}
    for _ in range(2):
        handler({"task": "double", "args": [1], "schedule": schedule}, Invocation())
    assert ran == [1, 1]
    with pytest.raises(ConfigurationError, match="scheduled-time"):
        handler({"task": "double", "args": [1], "schedule": "nightly"}, Invocation())


def test_an_eventbridge_event_carries_a_call_once(handler: Handler, ran: list[int]) -> None:
    event = {
        "version": "0",
        "id": unique(),
        "detail-type": "cloudq",
        "source": "shop",
        "detail": {"task": "double", "args": [3]},
    }
    assert handler(event, Invocation())["result"] == 6
    assert handler(event, Invocation())["duplicate"]
    assert ran == [3]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"hello": "world"},
        {"Records": [{"eventSource": "aws:s3"}]},
        {"detail": {"hello": "world"}, "id": "1"},
    ],
)
def test_anything_else_is_told_what_is_taken(handler: Handler, event: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"SQS batches .* direct invocations .* Scheduler"):
        handler(event, Invocation())


def test_no_records_are_no_failures(handler: Handler) -> None:
    assert handler({"Records": []}, Invocation()) == {"batchItemFailures": []}


def test_a_task_without_results_answers_its_state(app: CloudQ) -> None:
    @app.task(name="quiet", ignore_result=True)
    def quiet() -> int:
        return 1

    assert lambda_handler(app)({"task": "quiet"}, Invocation())["state"] == "SUCCESS"


def test_the_import_of_a_driver_does_not_import_powertools() -> None:
    code = (
        "import sys, cloudq_aws.sqs, cloudq_aws; assert 'aws_lambda_powertools' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
