"""The commands on SQS and DynamoDB."""

from __future__ import annotations

import pytest

from tests.servers import unique


@pytest.fixture
def broker(aws) -> str:
    return f"sqs://?endpoint_url={aws.url}&prefix={unique()}-"


@pytest.fixture
def where(aws, broker) -> list[str]:
    return ["-b", broker, "--backend", f"dynamodb://{unique()}?endpoint_url={aws.url}"]


def test_a_missing_queue_says_how_to_make_it(command, where):
    for args in (["queues", "stats", "gone"], ["dead", "list", "gone"], ["queues", "peek", "gone"]):
        ran = command(*args, *where)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "cloudq queues create NAME" in ran.err
    sent = command("call", "any", "--force", "-Q", "gone", *where)
    assert (sent.code, "cloudq queues create NAME" in sent.err) == (2, True)


def test_a_missing_table_says_so(command, where):
    ran = command("result", "x", *where)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "there is no such table" in ran.err


def test_nobody_there_says_what_to_look_at(command):
    ran = command("queues", "stats", "q", "-b", "sqs://?endpoint_url=http://127.0.0.1:9")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "check the URL, the region and the network" in ran.err


def test_queues_are_made_peeked_and_purged(command, where):
    assert command("queues", "create", "q", "--store", *where).code == 0
    assert command("queues", "list", "--names", *where).lines == ["q"]
    command("call", "any.task", "7", "--force", "-Q", "q", *where)
    peeked = command("queues", "peek", "q", *where)
    assert "any.task" in peeked.out
    assert "each look counts as a delivery" in peeked.err
    purged = command("queues", "purge", "q", "--yes", *where)
    assert "this takes up to 60 s" in purged.out
    assert "messages that run or arrive meanwhile are deleted too" in purged.err


def test_doctor_tries_what_it_can_without_touching_messages(command, where):
    assert command("doctor", "-Q", "q", *where).code == 1
    command("queues", "create", "q", "--store", *where)
    ran = command("doctor", "-Q", "q", "--json", *where)
    statuses = {each["what"]: each["status"] for each in ran.json["checks"]}
    assert (ran.code, statuses["receive from q"], statuses["backend write"]) == (0, "ok", "ok")
    command("call", "any.task", "--force", "-Q", "q", *where)
    ran = command("doctor", "-Q", "q", "--json", *where)
    statuses = {each["what"]: each["status"] for each in ran.json["checks"]}
    assert (statuses["receive from q"], statuses["send"]) == ("skip", "skip")
