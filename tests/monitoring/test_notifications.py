"""Failures that are told: which, how often, and over a real mail server and SNS and SES."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
import uuid
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from importlib import import_module
from typing import Any

import boto3
import pytest

from cloudq import CloudQ, ConfigurationError, Ignore, Reject, State, Task
from cloudq.monitoring.notifications import SMTP, Failure, notify_failures
from cloudq.testing import drain, eventually
from cloudq.testing.waiting import PATIENCE
from cloudq_aws.notifications import SES, SNS
from localstack.servers import Endpoint


@pytest.fixture
def told() -> list[Failure]:
    return []


def failing(app: CloudQ) -> Any:
    @app.task(name="fails", bind=True, autoretry_for=[OSError], max_retries=1)
    def fails(self: Task[..., Any], kind: str) -> None:
        if kind == "asks":
            raise self.retry(exc=KeyError("asked"))
        if kind == "softly":
            self.retry(throw=False)
            raise ValueError("and then this")
        if kind != "fine":
            raise {"auto": OSError(), "ignored": Ignore(), "rejected": Reject()}.get(
                kind, ValueError(f"secret\nof {kind}")
            )

    return fails


def test_only_what_fails_for_good_is_told(plain: CloudQ, told: list[Failure]) -> None:
    plain.middleware.append(notify_failures(told.append, every=0.0))
    task = failing(plain)
    for kind in ("fine", "ignored", "rejected"):
        task.delay(kind)
    drain(plain)
    assert told == []
    for kind in ("asks", "auto", "bad"):
        task.delay(kind)
    drain(plain)
    assert [(type(f.error).__name__, f.retries) for f in told] == [
        ("ValueError", 0),
        ("KeyError", 1),
        ("OSError", 1),
    ]


def test_a_retry_that_was_asked_for_is_no_failure(plain: CloudQ, told: list[Failure]) -> None:
    plain.middleware.append(notify_failures(told.append))
    plain.conf.default_retry_delay = 100.0
    failing(plain).delay("softly")
    drain(plain)
    assert told == []


def test_one_of_a_kind_in_a_while_and_the_next_counts_the_others(
    plain: CloudQ, told: list[Failure]
) -> None:
    plain.middleware.append(notify_failures(told.append, every=0.5, tasks=["fails"]))
    task = failing(plain)
    plain.task(name="other")(lambda: 1 / 0).delay()
    for _ in range(4):
        task.delay("bad")
    drain(plain)
    assert [failure.others for failure in told] == [0]
    until = time.monotonic() + 0.6
    eventually(lambda: time.monotonic() > until)
    task.delay("bad")
    drain(plain)
    assert [failure.others for failure in told] == [0, 3]
    assert "3 similar failures" in told[1].text


def test_what_is_told(plain: CloudQ, told: list[Failure]) -> None:
    plain.middleware.append(notify_failures(told.append))
    result = failing(plain).delay("bäd" * 60)
    drain(plain)
    (failure,) = told
    assert failure.subject.startswith("[cloudq] fails failed: ValueError: secret of b?d")
    assert failure.subject.isascii()
    assert len(failure.subject) == 100
    assert f"Task fails with id {result.id} has failed." in failure.text
    assert "Traceback (most recent call last)" in failure.text


def test_a_notifier_that_raises_changes_nothing(
    plain: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(failure: Failure) -> None:
        raise ConnectionError("no mail today")

    plain.middleware.append(notify_failures(broken))
    result = failing(plain).delay("bad")
    drain(plain)
    assert result.state == State.FAILURE
    assert isinstance(result.get(propagate=False), ValueError)
    assert "no mail today" in caplog.text


def test_notifiers_that_could_never_tell_are_errors() -> None:
    assert "hunter2" not in repr(SMTP(sender="q@b.example", to=["a@b.example"], password="hunter2"))
    with pytest.raises(ConfigurationError, match=r"SMTP: to is 'a@b\.example'"):
        SMTP(sender="q@b.example", to="a@b.example")
    with pytest.raises(ConfigurationError, match="in the clear"):
        SMTP(sender="q@b.example", to=["a@b.example"], user="u", security="none")
    with pytest.raises(ConfigurationError, match="is no topic"):
        SNS("alarms")
    with pytest.raises(ConfigurationError, match="SES: to is"):
        SES(sender="q@b.example", to=[])


# ---- over real servers


@pytest.fixture
def mail_server() -> Iterator[tuple[int, list[Any]]]:
    """A real SMTP server on a free port, and the envelopes that it has taken."""
    pytest.importorskip("aiosmtpd")
    taken: list[Any] = []

    class Keeps:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            taken.append(envelope)
            return "250 OK"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = import_module("aiosmtpd.controller").Controller(
        Keeps(), hostname="127.0.0.1", port=port, ready_timeout=PATIENCE
    )
    controller.start()
    try:
        yield port, taken
    finally:
        controller.stop()


def test_a_failure_is_a_mail(plain: CloudQ, mail_server: tuple[int, list[Any]]) -> None:
    port, taken = mail_server
    smtp = SMTP(
        sender="queue@shop.example",
        to=["ops@shop.example", "dev@shop.example"],
        host="127.0.0.1",
        port=port,
        security="none",
    )
    plain.middleware.append(notify_failures(smtp))
    result = failing(plain).delay("bäd")
    drain(plain)
    (envelope,) = taken
    assert envelope.mail_from == "queue@shop.example"
    assert envelope.rcpt_tos == ["ops@shop.example", "dev@shop.example"]
    mail: Any = message_from_bytes(envelope.content, policy=default)
    assert mail["Subject"] == "[cloudq] fails failed: ValueError: secret of b?d"
    assert result.id in mail.get_content()
    assert "secret\nof bäd" in mail.get_content().replace("\r\n", "\n")


def test_a_server_without_tls_is_refused_where_tls_is_asked(
    plain: CloudQ, mail_server: tuple[int, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    port, taken = mail_server
    smtp = SMTP(sender="q@a.example", to=["b@a.example"], host="127.0.0.1", port=port)
    plain.middleware.append(notify_failures(smtp))
    failing(plain).delay("bad")
    drain(plain)
    assert taken == []
    assert "STARTTLS" in caplog.text


def test_a_failure_reaches_an_sns_topics_subscriber(plain: CloudQ, aws: Endpoint) -> None:
    session = boto3.Session(region_name="us-east-1")
    sns: Any = session.client("sns", endpoint_url=aws.url)
    sqs: Any = session.client("sqs", endpoint_url=aws.url)
    name = f"alarms-{uuid.uuid4().hex[:8]}"
    topic = sns.create_topic(Name=name)["TopicArn"]
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["Attributes"]["QueueArn"])
    plain.middleware.append(notify_failures(SNS(topic, endpoint_url=aws.url)))
    result = failing(plain).delay("bad")
    drain(plain)
    answer = eventually(
        lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages")
    )
    told = json.loads(answer[0]["Body"])
    assert told["Subject"] == "[cloudq] fails failed: ValueError: secret of bad"
    assert result.id in told["Message"]
    for client in (sns, sqs):
        client.close()


def test_a_failure_is_a_mail_through_ses(plain: CloudQ, aws: Endpoint) -> None:
    ses: Any = boto3.Session(region_name="us-east-1").client("ses", endpoint_url=aws.url)
    ses.verify_email_identity(EmailAddress="queue@shop.example")
    notifier = SES(
        sender="queue@shop.example",
        to=["ops@shop.example"],
        region="us-east-1",
        endpoint_url=aws.url,
    )
    plain.middleware.append(notify_failures(notifier))
    result = failing(plain).delay("bad")
    drain(plain)
    with urllib.request.urlopen(f"{aws.url}/_ministack/ses/messages") as answer:
        sent = json.loads(answer.read())
    assert result.id in json.dumps(sent), sent
    ses.close()
