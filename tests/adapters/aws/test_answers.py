"""Answers with status 200 that are not the service's, or not whole, are believed by no driver."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

from cloudq import CloudQ, PublishError
from cloudq.driver import Change, Code, Delivery, Item, Key
from cloudq.testing import outgoing
from cloudq_aws.dynamodb import DynamoDB
from cloudq_aws.sqs import SQS
from tests.adapters.aws.liar import Liar

PAGE = b"<html>please log in</html>"
CUT = b'{"Successful": [{"Id": "0"'
# Bodies in which a service says nothing at all.
NOTHING = [b"", PAGE, CUT, b"[]", b"null"]


def deliveries(queue: str, count: int) -> list[Delivery]:
    return [
        Delivery(queue=queue, id=f"m{n}", body=b"x", receipt=f"r{n}", attempts=1, lease=30.0)
        for n in range(count)
    ]


def queue_of(liar: Liar) -> str:
    return f"{liar.url}/000000000000/default"


SQS_CALLS: dict[str, Any] = {
    "send": lambda driver, queue: driver.send(queue, [outgoing()]),
    "receive": lambda driver, queue: driver.receive(queue, count=1, wait=0.0, lease=30.0),
    "ack": lambda driver, queue: driver.ack(deliveries(queue, 1)),
    "release": lambda driver, queue: driver.release(deliveries(queue, 1), after=0.0),
    "extend": lambda driver, queue: driver.extend(deliveries(queue, 1), lease=9.0),
    "dead_letter": lambda driver, queue: driver.dead_letter(deliveries(queue, 1), reason="x"),
    "look up": lambda driver, _: driver.send("default", [outgoing()]),
    "stats": lambda driver, queue: driver.stats(queue),
    "peek": lambda driver, queue: driver.peek(queue, count=1),
}
KEY = Key("task#1", "-")
DYNAMODB_CALLS: dict[str, Any] = {
    "put": lambda driver: driver.put([Item(key=KEY, fields={"a": 1})]),
    "delete": lambda driver: driver.delete([KEY]),
    "get": lambda driver: driver.get([KEY], consistent=True),
    "update": lambda driver: driver.update(KEY, Change(set={"a": 1})),
    "query": lambda driver: driver.query("task#1", after=None, limit=10),
}
LACKING = b"{}"


@pytest.mark.parametrize("body", NOTHING)
@pytest.mark.parametrize("call", SQS_CALLS)
def test_what_is_no_answer_of_sqs_is_an_error(liar: Liar, sqs: SQS, call: str, body: bytes) -> None:
    operations = ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch", "GetQueueUrl")
    operations += ("ChangeMessageVisibilityBatch", "GetQueueAttributes")
    liar.bodies = dict.fromkeys(operations, body)
    with pytest.raises(Exception, match="cut or not the service's") as error:
        SQS_CALLS[call](sqs, queue_of(liar))
    assert sqs.error_code(error.value) == Code.UNREACHABLE


@pytest.mark.parametrize("call", [call for call in SQS_CALLS if call not in ("receive", "peek")])
def test_an_answer_of_sqs_that_lacks_what_it_always_has_is_an_error(
    liar: Liar, sqs: SQS, call: str
) -> None:
    operations = ("SendMessageBatch", "DeleteMessageBatch", "GetQueueUrl", "GetQueueAttributes")
    liar.bodies = dict.fromkeys((*operations, "ChangeMessageVisibilityBatch"), LACKING)
    with pytest.raises(Exception, match="it lacks") as error:
        SQS_CALLS[call](sqs, queue_of(liar))
    assert sqs.error_code(error.value) == Code.UNREACHABLE


@pytest.mark.parametrize("body", [*NOTHING, LACKING])
@pytest.mark.parametrize("call", DYNAMODB_CALLS)
def test_what_is_no_answer_of_dynamodb_is_an_error(
    liar: Liar, dynamodb: DynamoDB, call: str, body: bytes
) -> None:
    operations = ("BatchWriteItem", "BatchGetItem", "UpdateItem", "Query")
    liar.bodies = dict.fromkeys(operations, body)
    with pytest.raises(Exception, match="cut or not the service's") as error:
        DYNAMODB_CALLS[call](dynamodb)
    assert dynamodb.error_code(error.value) == Code.UNREACHABLE


def test_an_answer_about_other_tables_does_not_say_that_an_item_is_missing(
    liar: Liar, dynamodb: DynamoDB
) -> None:
    liar.bodies["BatchGetItem"] = b'{"Responses": {}, "UnprocessedKeys": {}}'
    with pytest.raises(Exception, match="it lacks table"):
        dynamodb.get([KEY], consistent=True)
    liar.bodies["BatchGetItem"] = b'{"Responses": {"table": []}, "UnprocessedKeys": {}}'
    assert dynamodb.get([KEY], consistent=True) == {}


def test_an_empty_queue_is_no_error(liar: Liar, sqs: SQS) -> None:
    liar.bodies["ReceiveMessage"] = b"{}"
    assert sqs.receive(queue_of(liar), count=1, wait=0.0, lease=30.0) == []


@pytest.mark.parametrize("lacking", ["Body", "ReceiptHandle", "Attributes"])
def test_a_message_without_its_parts_is_not_taken_for_an_empty_one(
    liar: Liar, sqs: SQS, lacking: str
) -> None:
    message = {
        "MessageId": "1",
        "Body": "x",
        "ReceiptHandle": "r",
        "Attributes": {"ApproximateReceiveCount": "1"},
    }
    del message[lacking]
    liar.bodies["ReceiveMessage"] = json.dumps({"Messages": [message]}).encode()
    with pytest.raises(Exception, match=f"it lacks {lacking}"):
        sqs.receive(queue_of(liar), count=1, wait=0.0, lease=30.0)


@pytest.mark.parametrize("call", ["send", "ack", "release", "extend"])
def test_what_is_in_neither_list_is_unreached(liar: Liar, sqs: SQS, call: str) -> None:
    told = {
        "Successful": [{"Id": "0"}],
        "Failed": [{"Id": "2", "Code": "RequestThrottled", "SenderFault": False}],
    }
    operations = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")
    liar.bodies = dict.fromkeys(operations, json.dumps(told).encode())
    queue = queue_of(liar)
    calls: dict[str, Any] = {
        "send": lambda: sqs.send(queue, [outgoing() for _ in range(4)]),
        "ack": lambda: sqs.ack(deliveries(queue, 4)),
        "release": lambda: sqs.release(deliveries(queue, 4), after=1.0),
        "extend": lambda: sqs.extend(deliveries(queue, 4), lease=1.0),
    }
    failures = calls[call]()
    assert [(failure.index, failure.code) for failure in failures] == [
        (1, Code.UNREACHABLE),
        (2, Code.THROTTLED),
        (3, Code.UNREACHABLE),
    ]


@pytest.mark.parametrize("copied", [b"{}", PAGE, b'{"Successful": [], "Failed": []}'])
def test_a_message_whose_copy_nobody_confirmed_is_not_deleted(
    liar: Liar, sqs: SQS, copied: bytes
) -> None:
    arn = "arn:aws:sqs:us-east-1:000000000000:default"
    policy = json.dumps({"deadLetterTargetArn": f"{arn}-dead", "maxReceiveCount": 5})
    liar.bodies = {
        "GetQueueAttributes": json.dumps(
            {"Attributes": {"QueueArn": arn, "RedrivePolicy": policy}}
        ).encode(),
        "GetQueueUrl": json.dumps({"QueueUrl": f"{queue_of(liar)}-dead"}).encode(),
        "ChangeMessageVisibilityBatch": b'{"Successful": [{"Id": "0"}]}',
        "DeleteMessageBatch": b'{"Successful": [{"Id": "0"}]}',
        "SendMessageBatch": copied,
    }
    with closing(CloudQ("x", broker=f"sqs://?endpoint_url={liar.url}", backend=None)) as app:
        (refused,) = app.broker.dead_letter(deliveries(queue_of(liar), 1), reason="x")
    assert refused.code == Code.UNREACHABLE
    assert "SendMessageBatch" in liar.operations()
    assert "DeleteMessageBatch" not in liar.operations()


def test_a_call_that_reached_no_queue_is_not_told_as_sent(liar: Liar) -> None:
    liar.bodies["SendMessageBatch"] = PAGE
    with closing(CloudQ("x", broker=f"sqs://?endpoint_url={liar.url}", backend=None)) as app:
        task = app.task(name="f")(lambda: None)
        with pytest.raises(PublishError, match="please log in"):
            task.apply_async(queue=queue_of(liar))


def test_a_cut_answer_is_asked_for_again(liar: Liar, dynamodb: DynamoDB) -> None:
    whole = b'{"Responses": {"table": []}, "UnprocessedKeys": {}}'
    bodies = iter([b"", b"", whole])

    class Bodies(dict[str, bytes]):
        def get(self, *_: Any) -> bytes:
            return next(bodies)

    liar.bodies = Bodies()
    assert dynamodb.get([KEY], consistent=True) == {}
    assert liar.operations() == ["BatchGetItem"] * 3
