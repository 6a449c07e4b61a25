"""FIFO queues in a Lambda: a message that stays keeps the later ones of its group back."""

from __future__ import annotations

import pytest

from cloudq import CloudQ
from cloudq.errors import Reject
from cloudq.results.record import State
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from tests.functions.aws.events import Context, EventSource


@pytest.fixture
def ran() -> list[tuple[str, int]]:
    return []


def test_what_follows_a_retry_in_its_group_does_not_run(
    app: CloudQ, fifo: EventSource, ran: list[tuple[str, int]]
) -> None:
    fail = [True]

    @app.task(queue=fifo.queue, max_retries=3, autoretry_for=(ValueError,))
    def step(group: str, number: int) -> None:
        ran.append((group, number))
        if fail[0] and (group, number) == ("a", 1):
            raise ValueError("not yet")

    for number in range(3):
        for group in ("a", "b"):
            step.options(group_key=group).delay(group, number)
    handler = lambda_handler(app, threads=4)
    event = fifo.take(6)
    places = fifo.settle(handler(event, Context()))
    assert sorted(ran) == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    assert [call for call in ran if call[0] == "b"] == [("b", 0), ("b", 1), ("b", 2)]
    reported = [event["Records"][place]["body"] for place in places]
    assert ['"args":["a",1]' in reported[0], '"args":["a",2]' in reported[1]] == [True, True]
    ran.clear()
    fail[0] = False
    assert fifo.settle(handler(fifo.take(2), Context())) == []
    assert ran == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("reason", ["requeued", "poison without dead letters"])
def test_what_follows_a_message_that_stays_stays(
    app: CloudQ, queue: str, ran: list[tuple[str, int]], reason: str
) -> None:
    app.broker.driver.client.create_queue(  # type: ignore[attr-defined]
        QueueName=f"{queue}.fifo", Attributes={"FifoQueue": "true"}
    )
    fifo = EventSource(app, f"{queue}.fifo")

    @app.task(queue=fifo.queue)
    def requeued() -> None:
        raise Reject("later", requeue=True)

    @app.task(queue=fifo.queue)
    def step() -> None:
        ran.append(("a", 1))

    if reason == "requeued":
        requeued.options(group_key="a").delay()
    else:
        fifo.put("{nonsense", group="a")
    step.options(group_key="a").delay()
    other = step.options(group_key="b").delay()
    event = fifo.take(3)
    reported = fifo.settle(lambda_handler(app)(event, Context()))
    groups = [record["attributes"]["MessageGroupId"] for record in event["Records"]]
    assert [groups[place] for place in reported] == ["a", "a"]
    assert ran == [("a", 1)], "the other group's"
    assert other.get(timeout=PATIENCE) is None


def test_what_follows_a_record_that_is_none_stays(
    app: CloudQ, fifo: EventSource, ran: list[tuple[str, int]]
) -> None:
    @app.task(queue=fifo.queue)
    def step(group: str, number: int) -> None:
        ran.append((group, number))

    for number in range(3):
        step.options(group_key="a").delay("a", number)
    step.options(group_key="b").delay("b", 0)
    event = fifo.take(4)
    group = [record for record in event["Records"] if '"a"' in record["body"]]
    del group[1]["body"]
    response = lambda_handler(app)(event, Context())
    reported = {each["itemIdentifier"] for each in response["batchItemFailures"]}
    assert reported == {record["messageId"] for record in group[1:]}
    assert sorted(ran) == [("a", 0), ("b", 0)]


def test_an_unrecorded_success_keeps_its_group_back(
    app: CloudQ, fifo: EventSource, ran: list[tuple[str, int]]
) -> None:
    """The store goes down under the first of three."""
    assert app.backend is not None
    client = app.backend.driver.client  # type: ignore[attr-defined]

    def refuse(**_: object) -> None:
        raise ConnectionError("the store is down")

    @app.task(queue=fifo.queue)
    def step(number: int) -> None:
        ran.append(("a", number))
        if number == 0:
            client.meta.events.register("before-send.dynamodb.BatchWriteItem", refuse)

    first, *_ = [step.options(group_key="a").delay(number) for number in range(3)]
    assert fifo.settle(lambda_handler(app)(fifo.take(3), Context())) == [0, 1, 2]
    assert ran == [("a", 0)]
    assert app.backend.record(first.id) is None


def test_poison_leaves_the_rest_of_its_group_to_run(
    app: CloudQ, fifo: EventSource, ran: list[tuple[str, int]]
) -> None:
    @app.task(queue=fifo.queue)
    def step(number: int) -> None:
        ran.append(("a", number))

    step.options(group_key="a").delay(0)
    fifo.put("{nonsense", group="a")
    step.options(group_key="a").delay(2)
    assert fifo.settle(lambda_handler(app)(fifo.take(3), Context())) == []
    assert ran == [("a", 0), ("a", 2)]
    assert [body for body, _ in fifo.dead()] == ["{nonsense"]


def test_a_task_without_a_group_is_retried_too(app: CloudQ, fifo: EventSource) -> None:
    @app.task(queue=fifo.queue, max_retries=1, default_retry_delay=2, autoretry_for=(ValueError,))
    def shaky() -> None:
        raise ValueError("no")

    result = shaky.delay()
    handler = lambda_handler(app)
    fifo.settle(handler(fifo.take(1), Context()))
    fifo.settle(handler(fifo.take(1), Context()))
    assert app.backend is not None
    record = app.backend.record(result.id)
    assert record is not None
    assert record.state is State.FAILURE
