"""Finds the URLs of an SQS queue and its dead letters by name; each is looked up once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cloudq.driver import ORDERED_SUFFIX, Code, is_ordered
from cloudq_aws.answers import cut, told
from cloudq_aws.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

_AMAZON = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


def is_url(queue: str) -> bool:
    """Tell whether a queue was given by its URL."""
    return queue.startswith(("https://", "http://"))


class Queues:
    """The queues of one client, by name or URL.

    `prefix` stands before every name (a URL is taken as it is). `dead` is the template of the
    dead-letter queue's name; without one, the queue's own redrive policy says where it is.
    """

    def __init__(self, client: SQSClient, *, prefix: str = "", dead: str | None = None) -> None:
        self.client = client
        self.prefix = prefix
        self._dead = dead
        self._urls: dict[str, str] = {}
        self._dead_urls: dict[str, str] = {}

    def full_name(self, queue: str) -> str:
        """The queue's name in SQS."""
        return urlsplit(queue).path.rpartition("/")[2] if is_url(queue) else self.prefix + queue

    def dead_name(self, queue: str) -> str:
        """The name in SQS of the dead-letter queue that `create` makes."""
        name = self.full_name(queue)
        dead = (self._dead or "{queue}-dead").replace("{queue}", name.removesuffix(ORDERED_SUFFIX))
        return dead + ORDERED_SUFFIX if is_ordered(name) else dead

    def url(self, queue: str) -> str:
        """The queue's URL. The request goes to the client's endpoint, whatever host this names."""
        if is_url(queue):
            self._check_region(queue)
            return queue
        # dict operations are atomic; at worst two threads look up the same name.
        if queue not in self._urls:
            reply = self.client.get_queue_url(QueueName=self.prefix + queue)
            self._urls[queue] = told(reply, "QueueUrl")
        return self._urls[queue]

    def _check_region(self, url: str) -> None:
        # SQS would answer "no such queue", and nobody would look for the reason in the region.
        found, ours = _AMAZON.match(urlsplit(url).netloc), self.client.meta.region_name
        custom = "amazonaws.com" not in self.client.meta.endpoint_url
        if found and found[1] != ours and not custom:
            raise AwsError(
                f"{url} is in {found[1]}, the broker is in {ours}: use sqs://{found[1]}",
                code=Code.NOT_FOUND,
            )

    def dead_url(self, queue: str) -> str | None:
        """The URL of the queue's dead letters; None when it has none."""
        if queue not in self._dead_urls:
            found = self._named_dead_url(queue) if self._dead else self._policy_dead_url(queue)
            if found is None:  # somebody may make one any time
                return None
            self._dead_urls[queue] = found
        return self._dead_urls[queue]

    def require_dead_url(self, queue: str) -> str:
        """The URL of the queue's dead letters. Raises `AwsError` with NOT_FOUND."""
        url = self.dead_url(queue)
        if url is None:
            raise AwsError(no_dead_letters(queue), code=Code.NOT_FOUND)
        return url

    def _named_dead_url(self, queue: str) -> str | None:
        try:
            found = self.client.get_queue_url(QueueName=self.dead_name(queue))
        except self.client.exceptions.QueueDoesNotExist:
            return None
        return told(found, "QueueUrl")

    def _policy_dead_url(self, queue: str) -> str | None:
        url = self.url(queue)
        # SQS leaves the attributes out if there is none: the ARN shows that this is its answer.
        reply = self.client.get_queue_attributes(
            QueueUrl=url, AttributeNames=["QueueArn", "RedrivePolicy"]
        )
        attributes = told(reply, "Attributes")
        told(attributes, "QueueArn")
        if not (text := attributes.get("RedrivePolicy")):
            return None
        account, name = _target(text)
        try:
            found = self.client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
        except self.client.exceptions.QueueDoesNotExist:
            return None  # the policy outlives the queue it names
        return told(found, "QueueUrl")

    def forget(self, queue: str) -> None:
        """Look the queue up again next time."""
        self._urls.pop(queue, None)
        self._dead_urls.pop(queue, None)


def _target(policy: str) -> tuple[str, str]:
    """Return the account and the name of the queue that a redrive policy names."""
    try:
        arn: object = json.loads(policy)["deadLetterTargetArn"]
    except (ValueError, LookupError, TypeError):
        arn = None
    if not isinstance(arn, str) or arn.count(":") < 2:
        raise cut(f"its RedrivePolicy is {policy[:60]!r}")
    *_, account, name = arn.split(":")
    return account, name


def no_dead_letters(queue: str) -> str:
    """Say that a message of this queue cannot be dead-lettered, and what to do."""
    return (
        f"{queue} has no dead-letter queue: make both with `cloudq queues create {queue}`, or"
        " give the queue a RedrivePolicy"
    )
