"""Behaviour of SQS that no contract covers: requests, dead-letter queues, strangers, refusals."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from cloudq.driver import Address, Code, Delivery
from cloudq.errors import ConfigurationError
from cloudq.testing import collect, outgoing
from cloudq.testing.waiting import HELD
from cloudq_aws.errors import AwsError
from cloudq_aws.sqs import SQS, open_broker
from localstack.servers import Endpoint
from tests.servers import SOON, unique


@pytest.fixture
def address(aws: Endpoint) -> Address:
    """The URL of the local endpoint."""
    return Address(scheme="sqs", options={"endpoint_url": aws.url})


@pytest.fixture
def driver(address: Address) -> Iterator[SQS]:
    """A driver on the local endpoint."""
    driver = open_broker(address)
    yield driver
    driver.close()


@pytest.fixture(params=["", ".fifo"])
def queue(driver: SQS, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new queue with its dead letters, of each kind."""
    name = unique() + request.param
    driver.create(name, lease=30, max_deliveries=5)
    yield name
    driver.delete(name)


@pytest.fixture
def bare(driver: SQS) -> Iterator[str]:
    """A queue that somebody made without dead letters."""
    name = unique("bare")
    url = driver.client.create_queue(QueueName=name)["QueueUrl"]
    yield name
    driver.client.delete_queue(QueueUrl=url)


def requests(driver: SQS) -> list[str]:
    """The operations that the driver sends from now on, as they go."""
    sent: list[str] = []
    driver.client.meta.events.register(
        "before-call.sqs", lambda model, **_: sent.append(model.name)
    )
    return sent


def attributes(driver: SQS, name: str) -> dict[str, str]:
    url = driver.client.get_queue_url(QueueName=name)["QueueUrl"]
    reply = driver.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    return {str(key): value for key, value in reply["Attributes"].items()}


class TestRequests:
    def test_ten_messages_are_one_request_each_way(self, driver: SQS, queue: str) -> None:
        driver.receive(queue, count=1, wait=0, lease=HELD)  # the name is looked up once
        sent = requests(driver)
        assert not driver.send(queue, [outgoing() for _ in range(10)])
        deliveries = driver.receive(queue, count=10, wait=1, lease=HELD)
        assert len(deliveries) == 10
        assert not driver.extend(deliveries, lease=HELD)
        assert not driver.ack(deliveries)
        assert sent == [
            "SendMessageBatch",
            "ReceiveMessage",
            "ChangeMessageVisibilityBatch",
            "DeleteMessageBatch",
        ]

    def test_a_name_is_looked_up_once_and_a_url_never(
        self, driver: SQS, address: Address, queue: str
    ) -> None:
        url = driver.client.get_queue_url(QueueName=queue)["QueueUrl"]
        sent = requests(driver)
        for name in (queue, queue, url):
            driver.send(name, [outgoing()])
        assert sent.count("GetQueueUrl") == 1
        fresh = open_broker(address)
        sent = requests(fresh)
        (delivery, *_) = collect(fresh, url, 1)
        assert delivery.queue == url
        assert not fresh.ack([delivery])
        assert set(sent) == {"ReceiveMessage", "DeleteMessageBatch"}
        fresh.close()

    def test_a_url_of_another_host_goes_to_our_endpoint(self, driver: SQS, queue: str) -> None:
        url = f"http://localhost:1/000000000000/{queue}"
        assert not driver.send(url, [outgoing(body=b"here")])
        assert collect(driver, queue, 1)[0].body == b"here"

    def test_the_dead_letter_queue_is_looked_up_once(self, driver: SQS, queue: str) -> None:
        driver.send(queue, [outgoing(), outgoing()])
        first, second = collect(driver, queue, 2)
        sent = requests(driver)
        for delivery in (first, second):
            assert not driver.dead_letter([delivery], reason="test")
        assert sent.count("GetQueueAttributes") == sent.count("GetQueueUrl") == 1


class TestRefusals:
    def test_a_refused_element_is_a_failure_at_its_place(self, driver: SQS, queue: str) -> None:
        driver.send(queue, [outgoing(), outgoing()])
        first, second = collect(driver, queue, 2)
        stranger = replace(first, receipt="nobody's")
        (failure,) = driver.ack([first, stranger, second])
        assert (failure.index, failure.code) == (1, Code.LEASE_LOST)

    def test_a_body_over_the_limit_leaves_the_others_sent(self, driver: SQS, queue: str) -> None:
        large = outgoing(body=b"x" * (driver.limits(queue).body + 1))
        small = outgoing()
        (failure,) = driver.send(queue, [large, small])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert collect(driver, queue, 1)[0].id == small.id

    def test_delays_and_leases_are_rounded_up(self, driver: SQS, bare: str) -> None:
        start = time.monotonic()
        driver.send(bare, [outgoing(delay=0.2)])
        (delivery,) = collect(driver, bare, 1, lease=0.2)
        assert delivery.lease == 1
        collect(driver, bare, 1)
        assert time.monotonic() - start > 1.9

    def test_no_dead_letter_queue_says_how_to_make_one(self, driver: SQS, bare: str) -> None:
        driver.send(bare, [outgoing()])
        deliveries = collect(driver, bare, 1)
        (failure,) = driver.dead_letter(deliveries, reason="test")
        assert failure.code is Code.NOT_FOUND
        assert f"cloudq queues create {bare}" in failure.reason
        with pytest.raises(AwsError, match="no dead-letter queue") as caught:
            driver.peek_dead(bare, count=1)
        assert driver.error_code(caught.value) is Code.NOT_FOUND
        assert driver.stats(bare).dead is None
        assert not driver.ack(deliveries)

    def test_another_region_has_another_queue(self, address: Address, bare: str) -> None:
        abroad = open_broker(replace(address, host="eu-west-1"))
        with pytest.raises(ClientError) as caught:
            abroad.send(bare, [outgoing()])
        assert abroad.error_code(caught.value) is Code.NOT_FOUND
        abroad.close()

    def test_a_url_of_another_region_names_the_right_one(self) -> None:
        driver = open_broker(Address(scheme="sqs", host="us-east-1"))
        url = "https://sqs.eu-west-1.amazonaws.com/123456789012/default"
        with pytest.raises(AwsError, match="use sqs://eu-west-1") as caught:
            driver.send(url, [outgoing()])
        assert driver.error_code(caught.value) is Code.NOT_FOUND
        driver.close()

    def test_an_endpoint_out_of_reach_is_told_fast(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            address = Address(scheme="sqs", options={"endpoint_url": f"http://127.0.0.1:{port}"})
            driver = open_broker(address)
            start = time.monotonic()
            with pytest.raises(Exception, match="Could not connect") as caught:
                driver.send("default", [outgoing()])
            assert isinstance(caught.value, Exception)
            assert driver.error_code(caught.value) is Code.UNREACHABLE
            assert time.monotonic() - start < SOON
            driver.close()


class TestDeadLetters:
    def test_a_strangers_message_moves_and_comes_back(self, driver: SQS, bare: str) -> None:
        name = unique()
        driver.create(name, lease=30, max_deliveries=5)
        url = driver.client.get_queue_url(QueueName=name)["QueueUrl"]
        extra = {"kind": {"DataType": "String", "StringValue": "foreign"}}
        sent = driver.client.send_message(
            QueueUrl=url, MessageBody="no JSON \u2028 here", MessageAttributes=extra
        )
        (delivery,) = collect(driver, name, 1)
        assert (delivery.id, delivery.body) == (sent["MessageId"], "no JSON \u2028 here".encode())
        assert not driver.dead_letter([delivery], reason="not a message of ours \n" * 200)
        (peeked,) = driver.peek_dead(name, count=10)
        assert (peeked.id, peeked.body) == (delivery.id, delivery.body)
        assert (peeked.reason or "").startswith("not a message of ours")
        assert not driver.redrive(name, [peeked])
        assert collect(driver, name, 1)[0].body == delivery.body
        driver.delete(name)

    def test_one_that_is_buried_again_soon_after_its_redrive_is_not_lost(
        self, driver: SQS, queue: str
    ) -> None:
        driver.send(queue, [outgoing(group="g" if queue.endswith(".fifo") else None)])
        for _ in range(3):  # all within the five minutes in which a FIFO queue deduplicates
            assert not driver.dead_letter(collect(driver, queue, 1), reason="poison")
            (dead,) = driver.peek_dead(queue, count=5)
            assert not driver.redrive(queue, [dead])
        assert len(collect(driver, queue, 1)) == 1

    def test_large_ones_move_in_several_requests(self, driver: SQS, queue: str) -> None:
        deliveries: list[Delivery] = []
        for number in range(3):
            driver.send(queue, [outgoing(body=f"{number}".encode() * 600_000)])
            deliveries += collect(driver, queue, 1)
        sent = requests(driver)
        assert not driver.dead_letter(deliveries, reason="large")
        assert sent.count("SendMessageBatch") == 3
        assert sorted(m.body[:1] for m in driver.peek_dead(queue, count=5)) == [b"0", b"1", b"2"]
        assert not driver.redrive(queue, driver.peek_dead(queue, count=5))
        assert len(collect(driver, queue, 3)) == 3

    def test_peeking_pages_and_gives_everything_back(self, driver: SQS, queue: str) -> None:
        for _ in range(3):
            driver.send(queue, [outgoing() for _ in range(8)])
        assert len({message.id for message in driver.peek(queue, count=100)}) == 24
        assert len(driver.peek(queue, count=13)) == 13
        assert len(collect(driver, queue, 24)) == 24

    def test_one_gone_by_now_is_a_failure(self, driver: SQS, queue: str) -> None:
        driver.send(queue, [outgoing(), outgoing()])
        driver.dead_letter(collect(driver, queue, 2), reason="test")
        peeked = driver.peek_dead(queue, count=2)
        assert not driver.delete_dead(queue, peeked[:1])
        (failure,) = driver.redrive(queue, peeked)
        assert (failure.index, failure.code) == (0, Code.NOT_FOUND)
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [peeked[1].id]


class TestNames:
    def test_created_queues_are_set_up_for_workers(self, driver: SQS, queue: str) -> None:
        dead = driver.stats(queue).dead_queue or ""
        suffix = ".fifo" if queue.endswith(".fifo") else ""
        assert dead == queue.removesuffix(suffix) + "-dead" + suffix
        made = attributes(driver, queue)
        policy = json.loads(made["RedrivePolicy"])
        assert policy["deadLetterTargetArn"].endswith(f":{dead}")
        assert int(policy["maxReceiveCount"]) == 5
        assert made["VisibilityTimeout"] == "30"
        for settings in (made, attributes(driver, dead)):
            assert settings["MessageRetentionPeriod"] == "1209600"
            assert settings["SqsManagedSseEnabled"] == "true"

    def test_dead_letter_queues_are_not_listed(self, driver: SQS, queue: str) -> None:
        assert driver.list(queue.removesuffix(".fifo")) == [queue]

    def test_a_prefix_keeps_apps_apart(self, address: Address) -> None:
        prefix = unique("app") + "-"
        driver = open_broker(replace(address, options={**address.options, "prefix": prefix}))
        driver.create("default", lease=30, max_deliveries=5)
        assert driver.list() == ["default"]
        assert driver.stats("default").dead_queue == f"{prefix}default-dead"
        driver.delete("default")
        assert driver.list() == []
        driver.close()

    def test_dead_letters_of_an_own_name_need_no_policy(
        self, driver: SQS, address: Address, bare: str
    ) -> None:
        name = f"failed-{bare}"
        url = driver.client.create_queue(QueueName=name)["QueueUrl"]
        options = {**address.options, "dead": "failed-{queue}"}
        named = open_broker(replace(address, options=options))
        named.send(bare, [outgoing()])
        sent = requests(named)
        assert not named.dead_letter(collect(named, bare, 1), reason="test")
        assert "GetQueueAttributes" not in sent
        assert named.stats(bare).dead == 1
        named.close()
        driver.client.delete_queue(QueueUrl=url)

    def test_a_shared_dead_letter_queue_outlives_a_delete(self, driver: SQS, bare: str) -> None:
        arn = attributes(driver, bare)["QueueArn"]
        name = unique()
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
        driver.client.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})
        driver.delete(name)
        assert driver.list(bare) == [bare]


# What SQS says when the visibility of a message is to change that was deleted, or moved on.
_GONE = (
    "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not "
    "available for visibility timeout change."
)


class TestStubbed:
    """Answers that no local server gives, so that botocore's own Stubber gives them."""

    @pytest.fixture
    def stubbed(self) -> Iterator[tuple[SQS, Stubber]]:
        driver = open_broker(Address(scheme="sqs"))
        with Stubber(driver.client) as stubber:
            yield driver, stubber
        driver.close()

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("AccessDenied", Code.DENIED),
            ("InvalidClientTokenId", Code.CREDENTIALS),
            ("OverLimit", Code.THROTTLED),
            ("AWS.SimpleQueueService.PurgeQueueInProgress", Code.THROTTLED),
            ("AWS.SimpleQueueService.NonExistentQueue", Code.NOT_FOUND),
            ("ServiceUnavailable", Code.UNREACHABLE),
            ("SomethingNew", Code.UNKNOWN),
        ],
    )
    def test_errors_have_codes(self, stubbed: tuple[SQS, Stubber], name: str, code: Code) -> None:
        driver, stubber = stubbed
        stubber.add_client_error("send_message_batch", name, http_status_code=400)
        with pytest.raises(ClientError) as caught:
            driver.send("https://queue.example/1/q", [outgoing()])
        assert driver.error_code(caught.value) is code

    @pytest.mark.parametrize(
        ("name", "message", "fault", "code"),
        [
            ("InternalError", "", False, Code.UNREACHABLE),
            ("SomethingNew", "", False, Code.THROTTLED),
            ("SomethingNew", "", True, Code.INVALID),
            ("InvalidParameterValue", "Message must be shorter than 1 bytes", True, Code.TOO_LARGE),
            ("InvalidParameterValue", "MessageGroupId is invalid", True, Code.INVALID),
            ("InvalidParameterValue", _GONE, True, Code.LEASE_LOST),
        ],
    )
    def test_a_failure_inside_of_a_success_is_read(
        self, stubbed: tuple[SQS, Stubber], name: str, message: str, fault: bool, code: Code
    ) -> None:
        driver, stubber = stubbed
        failed = {"Id": "1", "Code": name, "Message": message, "SenderFault": fault}
        sent = {"Id": "0", "MessageId": "m", "MD5OfMessageBody": "0" * 32}
        stubber.add_response("send_message_batch", {"Successful": [sent], "Failed": [failed]})
        (failure,) = driver.send("https://queue.example/1/q", [outgoing(), outgoing()])
        assert (failure.index, failure.code) == (1, code)


class TestSetUp:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            (
                Address(scheme="sqs", options={"regoin": "x"}),
                "no option 'regoin'; it knows client, dead, e",
            ),
            (Address(scheme="sqs", host="default"), '"default" in sqs is not an AWS region'),
            (Address(scheme="sqs", path="default", url="sqs:///default"), "the region is all"),
            (Address(scheme="sqs", options={"dead": "failed"}), "no {queue} in it"),
            (Address(scheme="sqs", options={"profile": "nobody"}), r"profile \(nobody\)"),
        ],
    )
    def test_a_wrong_url_says_what_is_right(self, address: Address, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            open_broker(address)

    def test_no_region_is_one_clear_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_REGION")
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        with pytest.raises(ConfigurationError, match="no AWS region for sqs://"):
            open_broker(Address(scheme="sqs"))

    def test_no_credentials_are_one_clear_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigurationError, match="no AWS credentials for sqs://"):
            open_broker(Address(scheme="sqs"))
