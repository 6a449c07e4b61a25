"""Lambda's part around a handler: its context, its events, and its reading of a response."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloudq import CloudQ


class Context:
    """Lambda's context object, with a time of its own to run out."""

    aws_request_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self, timeout: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.ends = clock() + timeout

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.ends - self._clock()) * 1000))


class EventSource:
    """An event source mapping by hand: leases messages, and deletes what is not reported."""

    def __init__(self, app: CloudQ, queue: str) -> None:
        self.client = app.broker.driver.client  # type: ignore[attr-defined]
        self.queue = queue
        self.url = self.client.get_queue_url(QueueName=queue)["QueueUrl"]
        self.event: dict[str, Any] = {}

    def put(self, body: str | Mapping[str, Any], group: str | None = None) -> str:
        text = body if isinstance(body, str) else json.dumps(body)
        more = {"MessageGroupId": group, "MessageDeduplicationId": text[:99]} if group else {}
        return self.client.send_message(QueueUrl=self.url, MessageBody=text, **more)["MessageId"]

    def take(self, count: int = 10, *, wait: float = 5.0) -> dict[str, Any]:
        """An event with `count` messages; less only when they do not come in `wait` seconds."""
        messages: list[dict[str, Any]] = []
        until = time.monotonic() + wait
        while len(messages) < count and time.monotonic() < until:
            reply = self.client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(10, count - len(messages)),
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
                WaitTimeSeconds=1,
            )
            messages += reply.get("Messages", [])
        self.event = {"Records": [self._record(message) for message in messages]}
        return self.event

    def _record(self, message: Mapping[str, Any]) -> dict[str, Any]:
        attributes = message.get("MessageAttributes", {})
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {
                name: {
                    "stringValue": value.get("StringValue"),
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": value["DataType"],
                }
                for name, value in attributes.items()
            },
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{self.queue}",
            "awsRegion": "us-east-1",
        }

    def settle(self, response: Mapping[str, Any]) -> list[int]:
        """Do as Lambda does with a response; the places of the messages that were reported."""
        reported = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
        records = self.event["Records"]
        done = [r["receiptHandle"] for r in records if r["messageId"] not in reported]
        if done:
            # A message that is deleted already comes back as failed, which does no harm.
            self.client.delete_message_batch(
                QueueUrl=self.url,
                Entries=[{"Id": str(i), "ReceiptHandle": h} for i, h in enumerate(done)],
            )
        return [i for i, record in enumerate(records) if record["messageId"] in reported]

    def count(self) -> tuple[int, int, int]:
        """Messages ready, delayed and leased."""
        names = ("", "Delayed", "NotVisible")
        attributes = [f"ApproximateNumberOfMessages{name}" for name in names]
        reply = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=attributes)
        ready, delayed, leased = (int(reply["Attributes"][name]) for name in attributes)
        return ready, delayed, leased

    def dead(self) -> list[tuple[str, str]]:
        """The dead letters: body and reason."""
        url = self.client.get_queue_url(QueueName=_dead(self.queue))["QueueUrl"]
        reply = self.client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=1
        )
        return [
            (m["Body"], m.get("MessageAttributes", {})["cloudq-reason"]["StringValue"])
            for m in reply.get("Messages", [])
        ]


def _dead(queue: str) -> str:
    name, fifo, _ = queue.partition(".fifo")
    return f"{name}-dead{fifo}"
