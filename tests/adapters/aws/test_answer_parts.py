"""Each part of an answer of AWS: missing, of another type, about something else, or there twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from cloudq.driver import Address, Change, Code, Delivery, Item, Key, Peeked
from cloudq.driver.schedulers import Job
from cloudq.monitoring.notifications import Failure as Told
from cloudq.testing import outgoing
from cloudq_aws.dynamodb import DynamoDB
from cloudq_aws.errors import error_code
from cloudq_aws.eventbridge import _TAG, EventBridge, open_scheduler
from cloudq_aws.notifications import SES, SNS
from cloudq_aws.sqs import SQS
from tests.adapters.aws.liar import Liar

KEY = Key("task#1", "-")
ROW = {"pk": {"S": "task#1"}, "sk": {"S": "-"}, "a": {"N": "1"}}
STRANGE = {**ROW, "pk": {"S": "task#2"}}
NAMED = {name: ROW[name] for name in ("pk", "sk")}
ARN = "arn:aws:sqs:us-east-1:000000000000:default"
MESSAGE: dict[str, Any] = {
    "MessageId": "1",
    "Body": "x",
    "ReceiptHandle": "r",
    "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1000"},
}


def put(driver: DynamoDB) -> object:
    return driver.put([Item(key=KEY, fields={"a": 1})])


def deleted(driver: DynamoDB) -> object:
    return driver.delete([KEY])


def got(driver: DynamoDB) -> object:
    return driver.get([KEY], consistent=True)


def updated(driver: DynamoDB) -> object:
    return driver.update(KEY, Change(set={"a": 1}))


def queried(driver: DynamoDB) -> object:
    return driver.query("task#1", after=None, limit=10)


def read(**parts: Any) -> dict[str, Any]:
    return {"Responses": {"table": [ROW]}, "UnprocessedKeys": {}, **parts}


def row(**attributes: Any) -> dict[str, Any]:
    return read(Responses={"table": [{**ROW, **attributes}]})


DYNAMODB: list[tuple[str, Callable[[DynamoDB], object], Any]] = [
    ("BatchWriteItem", put, {"UnprocessedItems": None}),
    ("BatchWriteItem", put, {"UnprocessedItems": []}),
    ("BatchWriteItem", put, {"UnprocessedItems": {"table": [None]}}),
    ("BatchWriteItem", put, {"UnprocessedItems": {"table": [{}]}}),
    ("BatchWriteItem", put, {"UnprocessedItems": {"table": [{"PutRequest": {"Item": STRANGE}}]}}),
    ("BatchWriteItem", put, {"UnprocessedItems": {"other": [{"PutRequest": {"Item": ROW}}]}}),
    ("BatchWriteItem", deleted, {"UnprocessedItems": {"other": [{"DeleteRequest": {"Key": ROW}}]}}),
    ("BatchGetItem", got, read(UnprocessedKeys=None)),
    ("BatchGetItem", got, read(UnprocessedKeys={"other": {"Keys": [NAMED]}})),
    ("BatchGetItem", got, read(UnprocessedKeys={"table": {"Keys": [{"pk": {"S": "x"}}]}})),
    ("BatchGetItem", got, read(UnprocessedKeys={"table": {"ConsistentRead": True}})),
    ("BatchGetItem", got, read(Responses=None)),
    ("BatchGetItem", got, read(Responses={"table": ROW})),
    ("BatchGetItem", got, read(Responses={"table": [STRANGE]})),
    ("BatchGetItem", got, read(Responses={"table": [{"a": {"N": "1"}}]})),
    ("BatchGetItem", got, row(sk=None)),
    ("BatchGetItem", got, row(a=1)),
    ("BatchGetItem", got, row(a={})),
    ("BatchGetItem", got, row(a={"N": 1})),
    ("BatchGetItem", got, row(a={"N": "one"})),
    ("BatchGetItem", got, row(a={"B": "&"})),
    ("BatchGetItem", got, row(a={"SS": "text"})),
    ("BatchGetItem", got, row(expires={"N": "soon"})),
    ("UpdateItem", updated, {"Attributes": None}),
    ("UpdateItem", updated, {"Attributes": {}}),
    ("UpdateItem", updated, {"Attributes": STRANGE}),
    ("UpdateItem", updated, {"Attributes": "a"}),
    ("Query", queried, {"Items": None, "Count": 0}),
    ("Query", queried, {"Items": {}, "Count": 0}),
    ("Query", queried, {"Items": [ROW], "Count": 2}),
    ("Query", queried, {"Items": []}),
    ("Query", queried, {"Items": [ROW]}),
    ("Query", queried, {"Items": [{"a": {"N": "1"}}], "Count": 1}),
    ("Query", queried, {"Items": [], "Count": 0, "LastEvaluatedKey": {"pk": {"S": "task#1"}}}),
    ("Query", queried, {"Items": [STRANGE], "Count": 1}),
    ("Query", queried, {"Items": [ROW, ROW], "Count": 2}),
    ("Query", queried, {"Items": [{**ROW, "sk": {"S": "a"}}, ROW], "Count": 2}),
    ("Query", queried, {"Items": [], "Count": 0, "LastEvaluatedKey": NAMED}),  # for ever
    ("Query", queried, {"Items": [], "Count": 0, "LastEvaluatedKey": {**NAMED, "pk": {"S": "b"}}}),
]


@pytest.mark.parametrize(("operation", "call", "answer"), DYNAMODB)
def test_a_part_of_an_answer_of_dynamodb_that_is_not_its_own_is_an_error(
    liar: Liar,
    dynamodb: DynamoDB,
    operation: str,
    call: Callable[[DynamoDB], object],
    answer: Any,
) -> None:
    liar.bodies[operation] = json.dumps(answer).encode()
    with pytest.raises(Exception, match="cut or not the service's") as error:
        call(dynamodb)
    assert dynamodb.error_code(error.value) is Code.UNREACHABLE


@pytest.mark.parametrize(
    "shown",
    [{"DeleteRequest": {"Key": NAMED}}, {"PutRequest": {"Item": {**ROW, "a": {"N": "9"}}}}],
)
def test_what_is_left_of_a_batch_is_sent_again_once_and_as_it_was(
    liar: Liar, dynamodb: DynamoDB, monkeypatch: pytest.MonkeyPatch, shown: Any
) -> None:
    monkeypatch.setattr("cloudq_aws.dynamodb._ROUNDS", 2)
    liar.bodies["BatchWriteItem"] = json.dumps(
        {"UnprocessedItems": {"table": [shown] * 2}}
    ).encode()
    (failure,) = dynamodb.put([Item(key=KEY, fields={"a": 1})])
    assert failure.code is Code.THROTTLED
    first, second = (text for _, text in liar.asked)
    assert first == second


FOREIGN: list[Any] = [
    {"M": {}},
    {"M": {"int": {"S": "x"}}},
    {"M": {"int": {"L": []}, "b": {"S": "1"}}},
    {"L": [{"S": "x"}]},
    {"NS": ["1"]},
    {"BS": ["AA=="]},
]


@pytest.mark.parametrize("value", FOREIGN)
def test_what_another_program_wrote_into_an_item_is_left_out(
    liar: Liar, dynamodb: DynamoDB, value: Any
) -> None:
    liar.bodies["BatchGetItem"] = json.dumps(row(b=value, expires={"S": "1"})).encode()
    (item,) = dynamodb.get([KEY], consistent=True).values()
    assert (item.fields, item.expires) == ({"a": 1}, None)


def test_what_an_answer_has_besides_is_no_error(liar: Liar, dynamodb: DynamoDB) -> None:
    answer = row(expires={"N": "99999999999"}) | {"ConsumedCapacity": None, "New": [1]}
    liar.bodies["BatchGetItem"] = json.dumps(answer).encode()
    (item,) = dynamodb.get([KEY], consistent=True).values()
    assert (item.fields, item.expires) == ({"a": 1}, 99999999999.0)


def answered(driver: SQS, queue: str) -> object:
    return driver.receive(queue, count=10, wait=0.0, lease=30.0)


def sent(driver: SQS, queue: str) -> object:
    return driver.send(queue, [outgoing()])


def looked_up(driver: SQS, queue: str) -> object:
    return driver.send("default", [outgoing()])


def counted(driver: SQS, queue: str) -> object:
    return driver.stats(queue)


def peeked(driver: SQS, queue: str) -> object:
    return driver.peek(queue, count=1)


def buried(driver: SQS, queue: str) -> object:
    return driver.peek_dead(queue, count=1)


COUNTS = {
    "ApproximateNumberOfMessages": "1",
    "ApproximateNumberOfMessagesDelayed": "0",
    "ApproximateNumberOfMessagesNotVisible": "0",
}


def policy(text: Any) -> dict[str, Any]:
    return {"Attributes": {"QueueArn": ARN, "RedrivePolicy": text}}


SQS_ANSWERS: list[tuple[str, Callable[[SQS, str], object], Any]] = [
    ("SendMessageBatch", sent, {"Successful": {}}),
    ("SendMessageBatch", sent, {"Successful": ["0"]}),
    ("SendMessageBatch", sent, {"Successful": [None]}),
    ("SendMessageBatch", sent, {"Successful": [{"Id": 0}]}),
    ("SendMessageBatch", sent, {"Successful": None, "Failed": None}),
    ("SendMessageBatch", sent, {"Failed": [{"Id": "0", "Code": 500}]}),
    ("SendMessageBatch", sent, {"Failed": [{"Id": "0", "SenderFault": "false"}]}),
    ("GetQueueUrl", looked_up, {"QueueUrl": ""}),
    ("GetQueueUrl", looked_up, {"QueueUrl": ["u"]}),
    ("GetQueueAttributes", counted, {"Attributes": {}}),
    ("GetQueueAttributes", counted, {"Attributes": [COUNTS]}),
    ("GetQueueAttributes", counted, {"Attributes": {**COUNTS, "ApproximateNumberOfMessages": 1}}),
    ("GetQueueAttributes", counted, {"Attributes": {**COUNTS, "ApproximateNumberOfMessages": "x"}}),
    ("GetQueueAttributes", buried, {"Attributes": {}}),
    ("GetQueueAttributes", buried, policy("{")),
    ("GetQueueAttributes", buried, policy("[]")),
    ("GetQueueAttributes", buried, policy('{"deadLetterTargetArn": "dead"}')),
    ("GetQueueAttributes", buried, policy('{"deadLetterTargetArn": null}')),
    ("ReceiveMessage", answered, {"Messages": {}}),
    ("ReceiveMessage", answered, {"Messages": [None]}),
    *(
        ("ReceiveMessage", call, {"Messages": [{**MESSAGE, **parts}]})
        for call in (answered, peeked)
        for parts in (
            {"MessageId": None},
            {"Body": None},
            {"Body": ""},
            {"Body": {}},
            {"ReceiptHandle": None},
            {"Attributes": None},
            {"Attributes": {}},
            {"Attributes": {"ApproximateReceiveCount": "often"}},
            {"Attributes": {"ApproximateReceiveCount": 1}},
            {"MessageAttributes": {"cloudq-id": "x"}},
        )
    ),
]


@pytest.mark.parametrize(("operation", "call", "answer"), SQS_ANSWERS)
def test_a_part_of_an_answer_of_sqs_that_is_not_its_own_is_an_error(
    liar: Liar, sqs: SQS, operation: str, call: Callable[[SQS, str], object], answer: Any
) -> None:
    liar.bodies[operation] = json.dumps(answer).encode()
    with pytest.raises(Exception, match="cut or not the service's") as error:
        call(sqs, f"{liar.url}/000000000000/default")
    assert sqs.error_code(error.value) is Code.UNREACHABLE


def test_messages_beside_one_that_is_not_whole_are_received(
    liar: Liar, sqs: SQS, caplog: pytest.LogCaptureFixture
) -> None:
    cut = {**MESSAGE, "Body": None}
    another = {**MESSAGE, "MessageId": "2", "ReceiptHandle": "r2"}
    liar.bodies["ReceiveMessage"] = json.dumps({"Messages": [MESSAGE, cut, another]}).encode()
    found = sqs.receive(f"{liar.url}/000000000000/default", count=10, wait=0.0, lease=30.0)
    assert [delivery.id for delivery in found] == ["1", "2"]
    assert "it lacks Body" in caplog.text


def test_a_lease_that_is_there_twice_is_one(liar: Liar, sqs: SQS) -> None:
    liar.bodies["ReceiveMessage"] = json.dumps({"Messages": [MESSAGE, MESSAGE]}).encode()
    assert len(sqs.receive(f"{liar.url}/q/default", count=10, wait=0.0, lease=30.0)) == 1


def test_ids_that_were_not_sent_and_ids_in_both_lists_confirm_nothing(liar: Liar, sqs: SQS) -> None:
    answer = {
        "Successful": [{"Id": "7"}, {"Id": "0"}, {"Id": "0"}, {"Id": "1"}],
        "Failed": [{"Id": "1"}, {"Id": "9", "Code": "x"}],
    }
    liar.bodies["SendMessageBatch"] = json.dumps(answer).encode()
    refused = sqs.send(f"{liar.url}/q/default", [outgoing() for _ in range(3)])
    assert [failure.index for failure in refused] == [1, 2]


@pytest.mark.parametrize("lacking", ["Body", "MessageId", "ReceiptHandle"])
def test_a_dead_letter_that_is_not_whole_is_neither_redriven_nor_deleted(
    liar: Liar, sqs: SQS, lacking: str
) -> None:
    target = json.dumps({"deadLetterTargetArn": f"{ARN}-dead", "maxReceiveCount": 5})
    dead = f"{liar.url}/000000000000/default-dead"
    cut = {name: value for name, value in MESSAGE.items() if name != lacking}
    liar.bodies = {
        "GetQueueAttributes": json.dumps(policy(target)).encode(),
        "GetQueueUrl": json.dumps({"QueueUrl": dead}).encode(),
        "ReceiveMessage": json.dumps({"Messages": [cut]}).encode(),
        "SendMessageBatch": b'{"Successful": [{"Id": "0"}]}',
    }
    chosen = [Peeked(id="1", body=b"x", attempts=1, handle="1")]
    for act in (sqs.redrive, sqs.delete_dead):
        with pytest.raises(Exception, match="it lacks"):
            act(f"{liar.url}/000000000000/default", chosen)
    assert not {"SendMessageBatch", "DeleteMessageBatch"} & set(liar.operations())


def test_what_has_moved_to_the_dead_letters_is_not_told_as_refused(liar: Liar, sqs: SQS) -> None:
    target = json.dumps({"deadLetterTargetArn": f"{ARN}-dead", "maxReceiveCount": 5})
    done = b'{"Successful": [{"Id": "0"}, {"Id": "1"}, {"Id": "2"}]}'
    liar.bodies = {
        "GetQueueAttributes": json.dumps(policy(target)).encode(),
        "GetQueueUrl": json.dumps({"QueueUrl": f"{liar.url}/q/dead"}).encode(),
        "ChangeMessageVisibilityBatch": done,
        "DeleteMessageBatch": done,
        "SendMessageBatch": done,
    }

    def fail_later(**_: object) -> None:
        if "DeleteMessageBatch" in liar.operations():
            raise EndpointConnectionError(endpoint_url=liar.url)

    sqs.client.meta.events.register("before-send.sqs.SendMessageBatch", fail_later)
    deliveries = [
        Delivery(
            queue=f"{liar.url}/q/default",
            id=id,
            body=b"x" * 600_000,
            receipt=id,
            attempts=1,
            lease=9,
        )
        for id in "abc"
    ]
    refused = sqs.dead_letter(deliveries, reason="test")
    assert [(each.index, each.code) for each in refused] == [
        (1, Code.UNREACHABLE),
        (2, Code.UNREACHABLE),
    ]


ERRORS = [b"[]", b'"no"', b"null", b"1", b'{"__type": 7}', b'{"__type": null, "message": []}']


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("body", ERRORS)
def test_an_error_of_another_shape_is_an_error_still(
    liar: Liar, sqs: SQS, body: bytes, status: int
) -> None:
    liar.status, liar.bodies["SendMessageBatch"] = status, body
    with pytest.raises(Exception, match="cut or not the service's") as error:
        sqs.send(f"{liar.url}/q/default", [outgoing()])
    assert sqs.error_code(error.value) is Code.UNREACHABLE


@pytest.mark.parametrize(
    "item", ["text", [], STRANGE, {"a": "text"}, {"a": {"N": 1}}, {"a": {"N": "x"}}]
)
def test_an_item_on_which_a_condition_failed_is_looked_at(
    liar: Liar, dynamodb: DynamoDB, item: Any
) -> None:
    failed = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"
    body = {"__type": failed, "message": "no", "Item": item}
    liar.status, liar.bodies["UpdateItem"] = 400, json.dumps(body).encode()
    with pytest.raises(Exception, match="cut or not the service's") as error:
        dynamodb.update(KEY, Change(set={"a": 1}))
    assert dynamodb.error_code(error.value) is Code.UNREACHABLE


# ---- schedules


@pytest.fixture
def scheduler(liar: Liar) -> Iterator[EventBridge]:
    options = {"endpoint_url": liar.url, "role": "arn:aws:iam::000000000000:role/r"}
    url = Address(scheme="eventbridge", host="us-east-1", options=options)
    with closing(open_scheduler(url)) as driver:
        liar.bodies["GetQueueUrl"] = json.dumps({"QueueUrl": f"{liar.url}/q/default"}).encode()
        liar.bodies["GetQueueAttributes"] = json.dumps({"Attributes": {"QueueArn": ARN}}).encode()
        yield driver


JOB = Job(
    name="job",
    queue="default",
    expression="rate(1 minutes)",
    timezone="UTC",
    body="{}",
    owner="shop",
    description="",
)
SHOWN = {
    "Name": "job",
    "ScheduleExpression": "rate(1 minutes)",
    "Target": {"Arn": ARN, "RoleArn": "arn:aws:iam::000000000000:role/r"},
}
ONE = {"Schedules": [{"Name": "job"}]}
SCHEDULES: list[tuple[Callable[[EventBridge], object], dict[str, Any]]] = [
    (lambda driver: driver.create("g", JOB), {"/schedules/job": {}}),
    (lambda driver: driver.create("g", JOB), {"/schedules/job": {"ScheduleArn": 1}}),
    (lambda driver: driver.update("g", JOB), {"/schedules/job": {}}),
    (lambda driver: driver.current("g"), {"/schedules": {}}),
    (lambda driver: driver.current("g"), {"/schedules": {"Schedules": [{}]}}),
    (lambda driver: driver.current("g"), {"/schedules": {"Schedules": ["job"]}}),
    (lambda driver: driver.current("g"), {"/schedules": ONE, "/schedules/job": {}}),
    (
        lambda driver: driver.current("g"),
        {"/schedules": ONE, "/schedules/job": {**SHOWN, "Target": {"Arn": ARN}}},
    ),
    (
        lambda driver: driver.current("g"),
        {"/schedules": ONE, "/schedules/job": {**SHOWN, "StartDate": "soon"}},
    ),
    (lambda driver: driver.owner("g"), {"/schedule-groups/g": {}}),
    (
        lambda driver: driver.owner("g"),
        {"/schedule-groups/g": {"Arn": "arn:aws:g"}, "/tags/arn:aws:g": {"Tags": [{"Key": _TAG}]}},
    ),
    (
        lambda driver: driver.owner("g"),
        {"/schedule-groups/g": {"Arn": "arn:aws:g"}, "/tags/arn:aws:g": {"Tags": [{}]}},
    ),
]


@pytest.mark.parametrize(("call", "answers"), SCHEDULES)
def test_a_schedule_that_nobody_confirmed_is_neither_made_nor_seen(
    liar: Liar,
    scheduler: EventBridge,
    call: Callable[[EventBridge], object],
    answers: dict[str, Any],
) -> None:
    liar.bodies |= {path: json.dumps(answer).encode() for path, answer in answers.items()}
    with pytest.raises(Exception, match="cut or not the service's") as error:
        call(scheduler)
    assert scheduler.error_code(error.value) is Code.UNREACHABLE


@pytest.mark.parametrize("operation", ["Publish", "SendEmail"])
@pytest.mark.parametrize("page", ["<html>please log in</html>", "<{0}Response></{0}Response>"])
def test_a_page_is_no_sent_notification(
    liar: Liar, monkeypatch: pytest.MonkeyPatch, operation: str, page: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    liar.bodies[operation] = page.format(operation).encode()
    notify: Any = {
        "Publish": lambda: SNS("arn:aws:sns:us-east-1:1:t", endpoint_url=liar.url),
        "SendEmail": lambda: SES(
            sender="a@b.example", to=["c@d.example"], region="us-east-1", endpoint_url=liar.url
        ),
    }[operation]()
    with pytest.raises(Exception, match="cut or not the service's") as error:
        notify(Told(task="t", id="1", error=ValueError("no"), queue="q", hostname="h", retries=0))
    assert error_code(error.value) is Code.UNREACHABLE
