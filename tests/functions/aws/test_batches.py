"""SQS batches in a Lambda: what is run, recorded, reported and left in the queue."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

import pytest

from cloudq import CloudQ
from cloudq.errors import ConfigurationError, Ignore, Reject
from cloudq.messages import ids
from cloudq.results.record import Record, State, fence
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from tests.functions.aws.events import Context, EventSource

NONE: dict[str, list[object]] = {"batchItemFailures": []}
UNREACHABLE = "http://127.0.0.1:1"


def state(app: CloudQ, task_id: str) -> State | None:
    assert app.backend is not None
    record = app.backend.record(task_id)
    return record.state if record else None


def test_what_returned_is_recorded_and_not_reported(app: CloudQ, source: EventSource) -> None:
    @app.task
    def double(x: int) -> int:
        return 2 * x

    results = [double.delay(i) for i in range(10)]
    response = lambda_handler(app)(source.take(10), Context())
    assert response == NONE
    assert [result.get(timeout=PATIENCE) for result in results] == [2 * i for i in range(10)]
    assert source.count() == (0, 0, 10), "deleting is left to Lambda"


def test_a_record_that_is_there_twice_is_run_once(app: CloudQ, source: EventSource) -> None:
    runs: list[int] = []

    @app.task
    def once() -> None:
        runs.append(1)

    once.delay()
    event = source.take(1)
    event["Records"] *= 2
    assert lambda_handler(app)(event, Context()) == NONE
    assert runs == [1]


def test_a_failure_for_good_is_recorded_and_not_reported(app: CloudQ, source: EventSource) -> None:
    @app.task(max_retries=0)
    def broken() -> None:
        raise ValueError("no")

    result = broken.delay()
    assert lambda_handler(app)(source.take(1), Context()) == NONE
    assert state(app, result.id) is State.FAILURE


def test_a_retry_is_a_copy_with_its_delay(app: CloudQ, source: EventSource) -> None:
    @app.task(max_retries=1, autoretry_for=(ValueError,))
    def shaky(_runs: list[int] = []) -> int:  # noqa: B006
        _runs.append(1)
        if len(_runs) == 1:
            raise ValueError("not yet")
        return len(_runs)

    result = shaky.delay()
    handler = lambda_handler(app)
    response = handler(source.take(1), Context())
    assert response == NONE
    assert source.settle(response) == []
    assert handler(source.take(1), Context()) == NONE
    assert result.get(timeout=PATIENCE) == 2


def test_a_retry_has_no_time_limit_of_the_invocation(app: CloudQ, source: EventSource) -> None:
    limits: list[tuple[float | None, float | None]] = []

    @app.task(bind=True, max_retries=1, autoretry_for=(ValueError,), time_limit=600)
    def shaky(self) -> None:  # type: ignore[no-untyped-def]
        limits.append((self.request.soft_time_limit, self.request.time_limit))
        raise ValueError("again")

    shaky.delay()
    handler = lambda_handler(app)
    source.settle(handler(source.take(1), Context(10)))
    handler(source.take(1), Context(800))
    assert limits[0][1] is not None
    assert 0 < limits[0][1] <= 8  # 2 s before the invocation's end
    assert limits[1][1] == 600


def test_poison_is_dead_lettered_with_its_reason(app: CloudQ, source: EventSource) -> None:
    source.put("{nonsense")
    source.put({"hello": "world"})
    source.put({"v": 1, "id": "1", "task": "nobody.knows"})
    response = lambda_handler(app)(source.take(3), Context())
    assert response == NONE
    dead = dict(source.dead())
    assert "undecodable" in dead["{nonsense"]
    assert "foreign" in dead['{"hello": "world"}']
    assert any("unknown task 'nobody.knows'" in reason for reason in dead.values())
    assert source.count() == (0, 0, 0)


def test_poison_without_a_dead_letter_queue_is_reported(app: CloudQ, queue: str) -> None:
    app.broker.driver.client.create_queue(QueueName=queue)  # type: ignore[attr-defined]
    source = EventSource(app, queue)
    source.put("{nonsense")
    response = lambda_handler(app)(source.take(1), Context())
    assert source.settle(response) == [0]
    assert source.count() == (0, 0, 1)


def test_only_what_failed_is_reported(app: CloudQ, source: EventSource) -> None:
    @app.task
    def odd(x: int) -> None:
        if x % 2 == 0:
            raise Reject("later", requeue=True)

    for i in range(6):
        odd.delay(i)
    event = source.take(6)
    bodies = [record["body"] for record in event["Records"]]
    reported = source.settle(lambda_handler(app)(event, Context()))
    assert sorted(bodies[place] for place in reported) == sorted(
        body for body in bodies if '"args":[0]' in body or "[2]" in body or "[4]" in body
    )
    eventually(lambda: source.count() == (3, 0, 0))  # released: visible soon


def test_all_failed_is_an_answer_and_no_error(app: CloudQ, source: EventSource) -> None:
    @app.task
    def never() -> None:
        raise Reject("later", requeue=True)

    never.delay()
    never.delay()
    assert len(lambda_handler(app)(source.take(2), Context())["batchItemFailures"]) == 2


def test_a_redelivery_of_a_finished_task_does_not_run(app: CloudQ, source: EventSource) -> None:
    ran: list[int] = []

    @app.task
    def once() -> None:
        ran.append(1)

    once.delay()
    event, handler = source.take(1), lambda_handler(app)
    handler(event, Context())
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "2"
    assert handler(event, Context()) == NONE
    assert ran == [1]


def test_a_message_that_a_later_delivery_has_is_left_alone(
    app: CloudQ, source: EventSource
) -> None:
    ran: list[int] = []

    @app.task
    def once() -> None:
        ran.append(1)

    result = once.delay()
    event, handler = source.take(1), lambda_handler(app)
    assert app.backend is not None
    later = Record(id=result.id, state=State.STARTED, fence=fence(0, 5))
    assert app.backend.advance(later) is None
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "2"
    assert source.settle(handler(event, Context())) == [0]
    assert ran == []


def test_ignored_is_done(app: CloudQ, source: EventSource) -> None:
    @app.task
    def ignored() -> None:
        raise Ignore

    ignored.delay()
    assert lambda_handler(app)(source.take(1), Context()) == NONE


def test_a_store_that_is_down_leaves_every_message(
    make_app: Callable[..., CloudQ], source: EventSource, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(backend=f"dynamodb://cloudq?endpoint_url={UNREACHABLE}")
    ran: list[int] = []

    @app.task
    def work() -> None:
        ran.append(1)

    work.delay()
    work.delay()
    with caplog.at_level(logging.ERROR):
        response = lambda_handler(app)(source.take(2), Context())
    assert source.settle(response) == [0, 1]
    assert ran == []
    assert "all 2 messages of a batch stay" in caplog.text
    assert source.count() == (0, 0, 2)


def test_a_retry_that_cannot_be_sent_is_reported_alone(app: CloudQ, source: EventSource) -> None:
    @app.task(max_retries=5, autoretry_for=(ValueError,))
    def shaky(text: str, queue_gone: bool) -> int:
        if queue_gone:
            raise ValueError("x")
        return 1

    good = shaky.delay("", False)
    # Foreign producers can fill a message to SQS's brim; its copy has one field more.
    body = {"v": 1, "id": "brim", "task": shaky.name, "args": ["", True]}
    body["args"] = ["x" * (1_048_576 - 2048 - len(json.dumps(body))), True]
    event = source.take(1)
    fat = event["Records"][0] | {"messageId": "fat", "receiptHandle": "unknown"}
    event["Records"].insert(0, fat | {"body": json.dumps(body)})
    response = lambda_handler(app)(event, Context())
    assert response == {"batchItemFailures": [{"itemIdentifier": "fat"}]}
    assert good.get(timeout=PATIENCE) == 1


def test_records_without_receipts_are_not_taken_for_one(app: CloudQ, source: EventSource) -> None:
    @app.task
    def note(x: int) -> None:
        pass

    results = [note.delay(i) for i in range(3)]
    event = source.take(3)
    for record in event["Records"][:2]:
        record["receiptHandle"] = ""
    response = lambda_handler(app)(event, Context())
    left = [record["messageId"] for record in event["Records"][:2]]
    assert [each["itemIdentifier"] for each in response["batchItemFailures"]] == left
    assert [state(app, result.id) for result in results].count(State.SUCCESS) == 1


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_result_too_large_to_keep_is_a_failure_and_not_reported(
    app: CloudQ, source: EventSource, attempts: int
) -> None:
    @app.task
    def large() -> str:
        return "x" * 500_000

    result = large.delay()
    event = source.take(1)
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = str(attempts)
    assert lambda_handler(app)(event, Context()) == NONE
    assert state(app, result.id) is State.FAILURE


def test_threads_run_a_batch_at_once(app: CloudQ, source: EventSource) -> None:
    together = threading.Barrier(5, timeout=PATIENCE)

    @app.task
    def meet(i: int) -> int:
        together.wait()
        return i

    results = [meet.delay(i) for i in range(5)]
    assert lambda_handler(app, threads=5)(source.take(5), Context()) == NONE
    assert [result.get(timeout=PATIENCE) for result in results] == list(range(5))


def test_async_tasks_run(app: CloudQ, source: EventSource) -> None:
    @app.task
    async def later(x: int) -> int:
        return x + 1

    result = later.delay(1)
    assert lambda_handler(app)(source.take(1), Context()) == NONE
    assert result.get(timeout=PATIENCE) == 2


def test_an_error_of_ours_keeps_its_message_alone(
    app: CloudQ, source: EventSource, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    def clock() -> float:
        if len(ran) == 2:
            raise OSError("the clock broke")
        return 0.0

    @app.task
    def work(x: int) -> int:
        ran.append(x)
        return x

    results = [work.delay(x) for x in range(3)]
    assert source.settle(lambda_handler(app)(source.take(3), Context(60, clock))) == [2]
    assert [result.get(timeout=PATIENCE) for result in results[:2]] == [0, 1]
    assert "could not be run" in caplog.text
    assert "the clock broke" in caplog.text


def test_a_prefix_of_the_broker_is_not_part_of_the_queue(
    make_app: Callable[..., CloudQ], source: EventSource, queue: str
) -> None:
    prefix = queue[:6]
    app = make_app(broker=make_app().conf.broker + f"&prefix={prefix}")
    seen: list[str] = []

    @app.task(bind=True, queue=queue.removeprefix(prefix))
    def where(self) -> None:  # type: ignore[no-untyped-def]
        seen.append(self.request.queue)
        raise Reject("look", requeue=True)

    where.delay()
    source.settle(lambda_handler(app)(source.take(1), Context()))
    assert seen == [queue.removeprefix(prefix)]
    eventually(lambda: source.count() == (1, 0, 0))


def test_the_time_of_a_batch_is_not_wasted(
    app: CloudQ, source: EventSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the store and one write for a whole batch, whatever its size."""
    monkeypatch.setattr(ids, "_SHORTLY", 0.0)  # each has an item of its own in the store
    calls: list[str] = []

    @app.task
    def work() -> None:
        pass

    for _ in range(10):
        work.delay()
    event = source.take(10)
    handler = lambda_handler(app)
    assert app.backend is not None
    client = app.backend.driver.client  # type: ignore[attr-defined]
    client.meta.events.register("before-call.*", lambda model, **_: calls.append(model.name))
    sqs = app.broker.driver.client  # type: ignore[attr-defined]
    sqs.meta.events.register("before-call.*", lambda model, **_: calls.append(model.name))
    started = time.perf_counter()
    assert handler(event, Context()) == NONE
    print(f"\n10 records: {(time.perf_counter() - started) * 100:.2f} ms each")
    assert calls == ["BatchGetItem", "BatchWriteItem"]


def _changed(record: dict[str, object], change: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in (record | change).items() if value != "left out"}


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": "left out"},
        {"attributes": None},
        {"attributes": {}},
        {"attributes": {"ApproximateReceiveCount": "x", "SentTimestamp": "\u0661"}},
        {"attributes": {"ApproximateReceiveCount": "9" * 5000, "SentTimestamp": None}},
        {"attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": ["x"]}},
        {"messageAttributes": "left out"},
        {"messageAttributes": ["x"]},
        {"messageAttributes": {"cloudq-id": None}},
        {"messageAttributes": {"cloudq-id": {"binaryValue": "eA==", "dataType": "Binary"}}},
    ],
)
def test_a_record_without_its_attributes_is_run(
    change: dict[str, object], app: CloudQ, source: EventSource
) -> None:
    @app.task
    def double(x: int) -> int:
        return 2 * x

    results = [double.delay(i) for i in range(3)]
    event = source.take(3)
    event["Records"][1] = _changed(event["Records"][1], change)
    assert lambda_handler(app)(event, Context()) == NONE
    assert [result.get(timeout=PATIENCE) for result in results] == [0, 2, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"body": "left out"},
        {"body": {"v": 1}},
        {"receiptHandle": "left out"},
        {"receiptHandle": None},
        {"receiptHandle": {}},
        {"eventSourceARN": "left out"},
        {"eventSourceARN": 5},
        {"eventSource": "left out"},
        {"eventSource": ["aws:sqs"]},
        {"messageId": "left out", "receiptHandle": "left out"},
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_record_that_is_none_stays_alone(
    change: dict[str, object], threads: int, app: CloudQ, source: EventSource
) -> None:
    ran: list[int] = []

    @app.task
    def note(x: int) -> None:
        ran.append(x)

    for i in range(3):
        note.delay(i)
    event = source.take(3)
    odd = event["Records"][1]
    event["Records"][1] = _changed(odd, change)
    response = lambda_handler(app, threads=threads)(event, Context())
    assert len(ran) == 2
    named = "" if "messageId" in change else odd["messageId"]
    assert response == {"batchItemFailures": [{"itemIdentifier": named}]}


@pytest.mark.parametrize("event", [None, [], "x", {"Records": ["x"]}, {"Records": [{}, {}]}])
def test_an_event_that_is_none_is_told_what_is_taken(event: object, app: CloudQ) -> None:
    with pytest.raises(ConfigurationError, match="this function takes SQS batches"):
        lambda_handler(app)(event, Context())  # type: ignore[arg-type]
