"""Delays where the broker has none: messages wait in the store and are sent on in time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from cloudq import BackendError, CloudQ, ConfigurationError, PublishError
from cloudq.broker.broker import Broker
from cloudq.broker.delayed import DelayedStore
from cloudq.driver import Change, Code, Failure, Item, Key, Limits, Outgoing
from cloudq.results.record import State
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.delayed import DelayedSender
from tests.support.bench import Bench
from tests.support.faults import Outage


def without_delay(limits: Limits) -> Limits:
    return replace(limits, max_delay=0.0, batch=10, ordered=False)


@pytest.fixture(autouse=True)
def no_delay(app: Bench) -> None:
    app.wire.change_limits = without_delay


@pytest.fixture
def task(app: Bench) -> Any:
    @app.task(name="t", autoretry_for=(ValueError,))
    def task(a: object = None) -> object:
        if a == "fail":
            raise ValueError(a)
        return a

    return task


def handles(app: Bench) -> list[str]:
    return [message.handle for message in app.broker.scheduled("default", count=1000)]


def test_a_delayed_message_waits_in_the_store_and_arrives_in_time(app: Bench, task: Any) -> None:
    now = time.time()
    later = task.apply_async(["later"], countdown=300)
    sooner = task.apply_async(["sooner"], countdown=100)
    prompt = task.delay("prompt")
    assert [m["id"] for m in app.sent()] == [prompt.id]
    due = app.broker.send_delayed("default")
    assert due == pytest.approx(now + 100, abs=30)  # pyright: ignore[reportUnknownMemberType]
    assert app.left() == 1
    app.clock.ahead += 101
    due = app.broker.send_delayed("default")
    assert due == pytest.approx(now + 300, abs=30)  # pyright: ignore[reportUnknownMemberType]
    assert [m["id"] for m in app.sent()] == [prompt.id, sooner.id]
    app.clock.ahead += 200
    assert app.broker.send_delayed("default") is None
    app.work()
    assert [r.get(timeout=0) for r in (prompt, sooner, later)] == ["prompt", "sooner", "later"]


def test_hundreds_are_sent_on_in_few_requests(app: Bench, task: Any) -> None:
    results = app.publish(task.options(countdown=60).prepare(n) for n in range(250))
    assert "send" not in app.wire.calls
    app.clock.ahead += 61
    while app.broker.send_delayed("default") is not None:
        pass
    assert app.wire.calls["send"] == 25
    app.work()
    assert [result.get(timeout=0) for result in results] == list(range(250))


def test_a_retry_waits_in_the_store_too(app: Bench, task: Any) -> None:
    app.conf.default_retry_delay = 30.0
    result = task.delay("fail")
    settlement = app.step()
    assert settlement.state is State.RETRY
    assert app.left() == 0
    assert len(handles(app)) == 1
    app.clock.ahead += 31
    app.broker.send_delayed("default")
    assert app.one().body.count(b'"retries":1') == 1
    assert not result.ready()


def test_a_crash_between_sending_and_deleting_repeats_and_loses_none(app: Bench, task: Any) -> None:
    task.apply_async([1], countdown=60)
    app.clock.ahead += 61
    app.store.down = {"delete"}
    with pytest.raises(BackendError):
        app.broker.send_delayed("default")
    assert len(app.sent()) == 1
    app.store.down = set()
    app.clock.ahead += 31  # the claim of the dead has ended
    app.broker.send_delayed("default")
    first, second = app.sent()
    assert first == second
    assert handles(app) == []


def test_what_the_broker_does_not_take_stays_parked(app: Bench, task: Any) -> None:
    task.apply_async([1], countdown=60)
    task.apply_async([2], countdown=60)
    app.clock.ahead += 61
    app.wire.refuse = lambda message: Code.THROTTLED if b"[1]" in message.body else None
    assert app.broker.send_delayed("default") is not None
    assert [m["args"] for m in app.sent()] == [[2]]
    assert len(handles(app)) == 1
    app.wire.refuse = lambda message: None
    app.broker.send_delayed("default")
    assert [m["args"] for m in app.sent()] == [[2], [1]]


def test_a_busy_function_asks_the_store_now_and_then(app: Bench, task: Any) -> None:
    for _ in range(10):
        app.broker.send_delayed("default", every=5.0)
    assert app.store.calls["query"] == 1
    task.apply_async([1], countdown=2)
    app.broker.send_delayed("default", every=5.0)
    assert app.store.calls["query"] == 1
    app.clock.ahead += 3
    app.broker.send_delayed("default", every=5.0)
    assert app.left() == 1
    app.clock.ahead += 6
    before = app.store.calls["query"]
    app.broker.send_delayed("default", every=5.0)
    assert app.store.calls["query"] == before + 1


def test_one_at_a_time_sends_on(app: Bench, task: Any) -> None:
    task.apply_async([1], countdown=60)
    app.clock.ahead += 61
    other = DelayedStore(lambda: app.results)
    sending, go = Event(), Event()
    sent: list[Outgoing] = []

    def slowly(batch: Sequence[Outgoing]) -> Sequence[Failure]:
        sending.set()
        go.wait(PATIENCE)
        sent.extend(batch)
        return ()

    thread = Thread(target=lambda: other.send_due("default", slowly, batch=10))
    thread.start()
    assert sending.wait(PATIENCE)
    assert app.broker.send_delayed("default") is not None  # look again soon
    assert app.left() == 0
    go.set()
    thread.join(PATIENCE)
    assert len(sent) == 1
    assert app.broker.send_delayed("default") is None
    assert app.left() == 0


def test_what_another_one_sends_on_cannot_be_taken_back(app: Bench, task: Any) -> None:
    task.apply_async([1], countdown=60)
    (handle,) = handles(app)
    app.clock.ahead += 61
    other = DelayedStore(lambda: app.results)
    sending, go = Event(), Event()

    def slowly(batch: Sequence[Outgoing]) -> Sequence[Failure]:
        sending.set()
        go.wait(PATIENCE)
        return ()

    thread = Thread(target=lambda: other.send_due("default", slowly, batch=10))
    thread.start()
    assert sending.wait(PATIENCE)
    answers: list[Failure] = []
    taking = Thread(target=lambda: answers.extend(app.broker.unschedule("default", [handle])))
    taking.start()
    go.set()
    thread.join(PATIENCE)
    taking.join(PATIENCE)
    assert [answer.code for answer in answers] == [Code.NOT_FOUND]


def test_a_revoked_task_is_taken_back_and_has_ended(app: Bench, task: Any) -> None:
    result = task.apply_async([1], countdown=3600)
    kept = task.apply_async([2], countdown=3600)
    assert app.record(result).scheduled is not None
    assert app.AsyncResult(result.id).revoke()
    assert app.state(result) is State.REVOKED
    assert app.record(result).scheduled is None
    assert not result.revoke()
    app.clock.ahead += 3601
    app.broker.send_delayed("default")
    assert [m["id"] for m in app.sent()] == [kept.id]


def test_a_revoked_task_that_has_come_due_is_dropped_when_it_arrives(app: Bench, task: Any) -> None:
    result = task.apply_async([1], countdown=3600)
    app.clock.ahead += 3601
    app.broker.send_delayed("default")
    assert result.revoke()
    assert app.state(result) is State.PENDING
    app.work()
    assert app.state(result) is State.REVOKED


def test_a_short_delay_costs_no_record(app: Bench, task: Any) -> None:
    result = task.apply_async([1], countdown=5)
    assert app.results.record(result.id) is None


def test_a_chosen_id_keeps_what_is_recorded_of_it(app: Bench, task: Any) -> None:
    task.apply_async([1], task_id="mine")
    app.work()
    assert app.state("mine") is State.SUCCESS
    task.apply_async([1], task_id="mine", countdown=3600)
    assert app.state("mine") is State.SUCCESS


def test_a_message_that_the_store_refuses_is_not_sent(app: Bench, task: Any) -> None:
    app.store.refuse = lambda item: Code.TOO_LARGE
    with pytest.raises(PublishError) as caught:
        task.apply_async([1], countdown=60)
    assert caught.value.code == Code.TOO_LARGE


def test_a_store_that_is_down_sends_nothing(app: Bench, task: Any) -> None:
    app.store.down = {"all"}
    with pytest.raises(PublishError) as caught:
        task.apply_async([1], countdown=60)
    assert caught.value.code == Code.UNREACHABLE


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("after", [False, True])
def test_a_store_that_fails_once_holds_no_due_message_back(
    app: Bench, task: Any, at: int, after: bool
) -> None:
    """The claim to send, or its end, is refused once, with and without effect."""
    first = task.apply_async(["first"], countdown=60)
    app.clock.ahead += 61
    calls = count()
    update = app.store.update

    def failing(key: Key, change: Change) -> Item:
        fails = next(calls) == at
        if fails and not after:
            raise Outage("before")
        done = update(key, change)
        if fails:
            raise Outage("after")
        return done

    app.store.update = failing  # pyright: ignore[reportAttributeAccessIssue]
    app.broker.send_delayed("default")
    second = task.apply_async(["second"], countdown=1)
    app.clock.ahead += 2
    app.broker.send_delayed("default")
    assert [m["id"] for m in app.sent()] == [first.id, second.id]


def test_a_worker_looks_again_soon_after_a_look_that_failed(app: Bench, task: Any) -> None:
    parked = DelayedSender(app.broker, ["default"], poll=1e9)
    app.store.down = {"all"}
    parked.start()
    try:
        eventually(lambda: app.store.calls["query"] >= 3)
    finally:
        parked.stop()


def test_without_a_store_a_delay_is_refused_at_the_call(app: Bench, task: Any) -> None:
    app.runtime._broker = Broker(app.wire, url="faulty://")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ConfigurationError, match="no backend that could keep them"):
        task.apply_async([1], countdown=60)


def test_take_backs_tell_which_were_gone(app: Bench, task: Any) -> None:
    for number in range(3):
        task.apply_async([number], countdown=60 + number)
    first, second, third = handles(app)
    assert app.broker.unschedule("default", [first]) == []
    failures = app.broker.unschedule("default", [second, first, third])
    assert [(failure.index, failure.code) for failure in failures] == [(1, Code.NOT_FOUND)]
    assert handles(app) == []


def test_pages_go_on_after_a_handle(app: Bench, task: Any) -> None:
    app.publish(task.options(countdown=60 + n).prepare(n) for n in range(7))
    found = app.broker.scheduled("default", count=3)
    rest = app.broker.scheduled("default", count=10, after=found[-1].handle)
    assert (len(found), len(rest)) == (3, 4)
    assert [m.handle for m in [*found, *rest]] == sorted(handles(app))


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
def test_an_embedded_broker_takes_a_revoked_one_out_of_its_queue(
    scheme: str, tmp_path: Path
) -> None:
    where = f"{tmp_path}/q.db" if scheme == "sqlite" else tmp_path.name
    with CloudQ("plain", broker=f"{scheme}://{'/' if scheme == 'sqlite' else ''}{where}") as plain:

        @plain.task(name="t")
        def task() -> None: ...

        result = task.apply_async(countdown=3600)
        assert plain.broker.admin.stats("default").delayed == 1
        assert result.revoke()
        assert plain.broker.admin.stats("default").delayed == 0
        assert result.state == State.REVOKED


def test_a_worker_sends_on_what_it_parks_and_what_others_do(app: Bench, task: Any) -> None:
    parked = DelayedSender(app.broker, ["default", "other"], poll=0.1)
    parked.start()
    try:
        task.apply_async([1], countdown=0.2)
        eventually(lambda: app.left() == 1)
        DelayedStore(lambda: app.results).keep("other", [Outgoing(id="x", body=b"{}", delay=0.2)])
        eventually(lambda: app.left("other") == 1)
        app.store.down = {"all"}
        before = app.store.calls["query"]
        eventually(lambda: app.store.calls["query"] > before)
        app.store.down = set()
        task.apply_async([2], countdown=0.1)
        eventually(lambda: app.left() == 2)
    finally:
        parked.stop()


def test_no_thread_where_the_broker_delays(app: Bench) -> None:
    app.wire.change_limits = lambda limits: limits
    parked = DelayedSender(app.broker, ["default"], poll=0.1)
    parked.start()
    parked.stop()
    assert not app.store.calls
