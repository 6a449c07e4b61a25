"""Publishing: few requests, limits that are checked before, refusals that are named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloudq import BrokerError, ConfigurationError, InvalidArguments, MessageTooLarge, PublishError
from cloudq.driver import Code, Limits, Outgoing
from tests.support.bench import Bench

SQS = {"batch": 10, "body": 2048, "batch_body": 4096, "max_delay": 900.0}


def small(limits: Limits) -> Limits:
    return replace(limits, batch=10, body=2048, batch_body=4096, max_delay=900.0)


@pytest.fixture
def task(app: Bench) -> Any:
    @app.task(name="t")
    def task(a: object = None) -> object:
        return a

    return task


def test_one_call_is_one_send(app: Bench, task: Any) -> None:
    task.delay(1)
    assert app.wire.calls == {"send": 1}
    assert not app.store.calls


def test_many_calls_are_published_in_few_sends(app: Bench, task: Any) -> None:
    app.wire.change_limits = small
    results = app.publish(task.prepare(number) for number in range(25))
    assert app.wire.calls["send"] == 3
    assert [m["id"] for m in app.sent()] == [result.id for result in results]
    app.work()
    assert [result.get(timeout=0) for result in results] == list(range(25))


@pytest.mark.parametrize("eager", [False, True])
def test_calls_are_written_as_a_generator_gives_them(app: Bench, task: Any, eager: bool) -> None:
    app.conf.task_always_eager = eager
    rows: list[int] = []

    def calls() -> Iterator[Any]:
        for number in range(3):
            rows.append(number)
            yield task.prepare(rows)
            rows.clear()

    results = app.publish(calls())
    app.work()
    assert [result.get(timeout=0) for result in results] == [[0], [1], [2]]


def test_batches_keep_to_the_services_bytes(app: Bench, task: Any) -> None:
    app.wire.change_limits = small
    app.publish(task.prepare("x" * 1500) for _ in range(6))
    assert app.wire.calls["send"] == 3
    assert app.left() == 6


def test_calls_for_two_queues_are_sent_to_each(app: Bench, task: Any) -> None:
    other = task.options(queue="other")
    app.publish([task.prepare(1), other.prepare(2), task.prepare(3), other.prepare(4)])
    assert app.wire.calls["send"] == 2
    assert [m["args"] for m in app.sent()] == [[1], [3]]
    assert [m["args"] for m in app.sent("other")] == [[2], [4]]


def test_nothing_to_publish_sends_nothing(app: Bench) -> None:
    assert app.publish([]) == []
    assert not app.wire.calls


def test_all_calls_are_checked_before_the_first_is_sent(app: Bench, task: Any) -> None:
    with pytest.raises(InvalidArguments):
        app.publish([task.prepare(1), task.prepare(1, 2)])
    assert not app.wire.calls


def test_refused_calls_are_named_and_the_others_sent(app: Bench, task: Any) -> None:
    app.wire.refuse = lambda message: Code.DENIED if b'"bad"' in message.body else None
    calls = [task.options(task_id=f"id-{n}").prepare("bad" if n % 3 == 1 else n) for n in range(7)]
    with pytest.raises(PublishError, match="2 of 7 messages not sent: refused on pur") as error:
        app.publish(calls)
    assert error.value.code == Code.DENIED
    assert [(r.index, r.id, r.code) for r in error.value.rejected] == [
        (1, "id-1", "denied"),
        (4, "id-4", "denied"),
    ]
    assert [m["id"] for m in app.sent()] == ["id-0", "id-2", "id-3", "id-5", "id-6"]


def test_throttled_messages_are_sent_again_and_no_others(app: Bench, task: Any) -> None:
    busy = {"id-1": 2}

    def refuse(message: Outgoing) -> Code | None:
        if not busy.get(message.id, 0):
            return None
        busy[message.id] -= 1
        return Code.THROTTLED

    app.wire.refuse = refuse
    app.publish(task.options(task_id=f"id-{n}").prepare() for n in range(3))
    assert app.wire.calls["send"] == 3
    assert sorted(m["id"] for m in app.sent()) == ["id-0", "id-1", "id-2"]


def test_what_stays_throttled_is_refused_in_the_end(app: Bench, task: Any) -> None:
    app.wire.refuse = lambda message: Code.THROTTLED
    with pytest.raises(PublishError, match="1 of 1") as error:
        task.delay()
    assert app.wire.calls["send"] == 4  # the first and publish_retries
    assert error.value.code == Code.THROTTLED


def test_a_refusal_for_good_is_not_tried_again(app: Bench, task: Any) -> None:
    app.wire.refuse = lambda message: Code.INVALID
    with pytest.raises(PublishError):
        task.delay()
    assert app.wire.calls["send"] == 1


def test_an_outage_midway_names_what_is_not_sent(app: Bench, task: Any) -> None:
    app.wire.change_limits = small
    sent = 0

    def refuse(message: Outgoing) -> Code | None:
        nonlocal sent
        sent += 1
        if sent == 10:
            app.wire.down.add("send")
        return None

    app.wire.refuse = refuse
    with pytest.raises(PublishError, match="15 of 25 messages not sent") as error:
        app.publish(task.prepare(n) for n in range(25))
    assert [r.index for r in error.value.rejected] == list(range(10, 25))
    assert error.value.code == Code.UNREACHABLE
    assert len(app.sent()) == 10


def test_a_call_that_fails_at_once_is_made_again(app: Bench, task: Any) -> None:
    app.wire.change_limits = small
    app.wire.failing["send"] = 2
    app.publish(task.options(task_id=f"id-{n:02}").prepare(n) for n in range(25))
    assert sorted(m["id"] for m in app.sent()) == [f"id-{n:02}" for n in range(25)]


def test_a_call_that_fails_late_is_not(app: Bench, task: Any) -> None:
    app.wire.failing["send"] = 1
    app.wire.slowness = 0.6
    with pytest.raises(BrokerError):
        task.delay()
    assert app.wire.calls["send"] == 1


def test_an_outage_is_a_broker_error_that_says_what_to_do(app: Bench, task: Any) -> None:
    app.wire.down.add("send")
    with pytest.raises(BrokerError, match="cannot send to 'default' on faulty://: no answer") as e:
        task.delay()
    assert e.value.code == Code.UNREACHABLE


def test_a_message_over_the_limit_is_refused_before_anything_is_sent(app: Bench, task: Any) -> None:
    app.wire.change_limits = small
    with pytest.raises(MessageTooLarge, match=r"the message for t is 3,\d+ bytes .* takes 2,048"):
        app.publish([task.prepare(1), task.prepare("x" * 3000)])
    assert not app.wire.calls


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({"ordered": False}, {"group_key": "g"}, "keeps no order, so group_key would do nothing"),
        ({"dedup_window": 0.0}, {"dedup_key": "d"}, "does not deduplicate: use idempotency_key"),
    ],
)
def test_an_option_that_the_broker_cannot_honour_is_refused(
    app: Bench, task: Any, change: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    app.wire.change_limits = lambda limits: replace(limits, **change)
    with pytest.raises(ConfigurationError, match=reason):
        task.apply_async(**options)
    assert not app.wire.calls
    app.wire.change_limits = lambda limits: limits
    task.apply_async(**options)


def test_a_dedup_key_keeps_a_second_message_out(app: Bench, task: Any) -> None:
    task.apply_async([1], dedup_key="order-9")
    task.apply_async([2], dedup_key="order-9")
    assert [m["args"] for m in app.sent()] == [[1]]
