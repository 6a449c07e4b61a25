"""Notifiers of failed tasks on AWS: an SNS topic, and mail through SES."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import boto3
from botocore.config import Config
from botocore.parsers import ResponseParserError

from cloudq.errors import ConfigurationError
from cloudq.monitoring.notifications import Failure
from cloudq_aws.answers import cut, told

# SNS takes messages of 256 KiB, and a traceback that long helps nobody.
_LONGEST_TEXT = 100_000
_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=5, read_timeout=10
)


class SNS:
    """Publishes each failure to a topic, for the topic's subscriptions.

    One billed request a failure told. Raises `ConfigurationError` for what is no topic's ARN.
    """

    def __init__(self, topic: str, *, endpoint_url: str | None = None) -> None:
        parts = topic.split(":")
        if len(parts) != 6 or parts[2] != "sns":
            raise ConfigurationError(
                f"SNS: {topic!r} is no topic: give its ARN, as arn:aws:sns:eu-west-1:123:alarms"
            )
        self._topic = topic
        self._client = _client("sns", parts[3], endpoint_url)

    def __call__(self, failure: Failure) -> None:
        _send(
            self._client.publish,
            TopicArn=self._topic,
            Subject=failure.subject,
            Message=failure.text[:_LONGEST_TEXT],
        )


class SES:
    """Sends each failure as a mail. The sender must be verified with SES.

    One billed request a failure told, and one mail for each address.
    """

    def __init__(
        self,
        *,
        sender: str,
        to: Collection[str],
        region: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        if isinstance(to, str) or not to:
            raise ConfigurationError(f'SES: to is {to!r}: give addresses, as ["a@b.example"]')
        self._sender = sender
        self._to = list(to)
        self._client = _client("ses", region, endpoint_url)

    def __call__(self, failure: Failure) -> None:
        _send(
            self._client.send_email,
            Source=self._sender,
            Destination={"ToAddresses": self._to},
            Message={
                "Subject": {"Data": failure.subject, "Charset": "UTF-8"},
                "Body": {"Text": {"Data": failure.text[:_LONGEST_TEXT], "Charset": "UTF-8"}},
            },
        )


def _send(call: Any, **request: object) -> None:
    """Make a request. Raises `AwsError` for an answer that confirms nothing, such as a page."""
    try:
        sent = call(**request)
    except (LookupError, ResponseParserError) as error:  # the SDK reads any XML as its own
        raise cut(f"it lacks {error}") from error
    told(sent, "MessageId")


def _client(service: Any, region: str | None, endpoint_url: str | None) -> Any:
    # A session of its own: the default one is not safe to use from many threads.
    session: Any = boto3.Session()
    return session.client(service, region_name=region, endpoint_url=endpoint_url, config=_CONFIG)
