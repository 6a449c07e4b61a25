"""Opening deliveries: one store that is slow to answer, many messages, and who hears of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloudq import BackendError, CloudQ, State, Task, signals
from cloudq.driver import Code, Outgoing
from cloudq.execution import admission
from cloudq.execution.settlement import Action, Settlement
from cloudq.schedules.run_id import EXPIRES, SCHEDULE, SLOT
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench
from tests.support.faults import Outage
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def again(app: Bench, count: int) -> None:
    """Let the messages in the queue come once more."""
    assert len(app.receive(count)) == count
    app.lose_leases()


# ---- a store that is down


def test_a_store_that_refuses_all_is_asked_three_times(app: Bench, t: Tasks) -> None:
    t.same.delay(1)
    app.store.down.add("get")
    before = app.store.calls["get"]
    with pytest.raises(BackendError):
        app.runner.open(app.receive())
    assert app.store.calls["get"] == before + 3


def test_what_the_store_refuses_of_several_comes_back_and_the_others_run(
    app: Bench, t: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [t.same.delay(n) for n in range(4)]
    again(app, 4)
    update, asked = app.store.update, list[str]()

    def refusing(key: Any, change: Any) -> Any:
        if any(call.id in key.partition for call in calls[:2]):
            asked.append(key.partition)
            raise Outage("down")
        return update(key, change)

    monkeypatch.setattr(app.store, "update", refusing)
    jobs, settled = app.runner.open(app.receive())
    assert {job.message.id for job in jobs} == {call.id for call in calls[2:]}
    assert [outcome.action for _, outcome in settled] == [Action.RELEASE] * 2
    assert all("it waits for the store: " in outcome.reason for _, outcome in settled)
    assert len(asked) == 8


def test_behind_a_message_that_waits_for_the_store_no_later_one_of_its_group_runs(
    app: Bench, t: Tasks
) -> None:
    grouped = t.same.options(group_key="g")
    first, second = grouped.delay(1), grouped.delay(2)
    other = t.same.options(group_key="h").delay(3)
    again(app, 2)
    bodies = {
        json.loads(each.body)["id"]: each.body for each in app.memory.peek("default", count=3)
    }
    claimed, alone = sorted(app.receive(), key=lambda each: each.body != bodies[first.id])
    # A FIFO queue of SQS gives several messages of a group at once, in their order.
    behind = replace(claimed, id="behind", body=bodies[second.id], attempts=1)
    app.store.down.add("update")
    alone = replace(alone, attempts=1)
    jobs, settled = app.runner.open([claimed, behind, alone])
    assert [job.message.id for job in jobs] == [other.id]
    assert [(each, outcome.action) for each, outcome in settled] == [
        (claimed, Action.RELEASE),
        (behind, Action.RELEASE),
    ]


@pytest.mark.parametrize("code", [Code.INVALID, Code.TOO_LARGE])
def test_a_claim_that_no_store_takes_ends_its_call(
    app: Bench, t: Tasks, monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    t.same.delay(1)
    again(app, 1)

    def refusing(*_: object) -> Any:
        raise BackendError("a key that cannot be", code=code)

    monkeypatch.setattr(app.results, "advance", refusing)
    jobs, [(_, outcome)] = app.runner.open(app.receive())
    assert (jobs, outcome.action, outcome.state) == ([], Action.DEAD_LETTER, State.FAILURE)


def test_redelivered_calls_are_claimed_once_each_beside_new_ones(app: Bench, t: Tasks) -> None:
    for n in range(3):
        t.same.delay(n)
    again(app, 3)
    for n in range(2):
        t.same.delay(n)
    before = app.store.calls.copy()
    jobs, settled = app.runner.open(app.receive())
    assert (len(jobs), settled) == (5, [])
    assert [job.fenced for job in jobs] == [job.delivery.attempts > 1 for job in jobs]
    assert (app.store.calls - before)["update"] == 3


def test_redelivered_calls_are_claimed_at_a_time(app: Bench, t: Tasks) -> None:
    for n in range(2):
        t.same.delay(n)
    again(app, 2)
    update, meeting = app.store.update, threading.Barrier(2)

    def together(*given: Any) -> Any:
        meeting.wait(PATIENCE)
        return update(*given)

    app.store.update = together  # type: ignore[method-assign]
    jobs, _ = app.runner.open(app.receive())
    assert [job.fenced for job in jobs] == [True, True]


def test_receivers_hear_of_new_calls_in_the_thread_that_opens_them(app: Bench, t: Tasks) -> None:
    heard: list[tuple[str, int]] = []

    def hear(*_: object, request: Any, **__: object) -> None:
        heard.append((request.id, threading.get_ident()))

    calls = [t.same.delay(n) for n in range(3)]
    signals.task_received.connect(hear)
    try:
        app.runner.open(app.receive())
    finally:
        signals.task_received.disconnect(hear)
    assert heard == [(call.id, threading.get_ident()) for call in calls]


def test_the_calls_of_a_bundle_are_looked_up_as_one(app: Bench, t: Tasks) -> None:
    app.publish([t.same.prepare(n) for n in range(150)], bundle=150)
    before = app.store.calls["get"]
    jobs, _ = app.runner.open(app.receive())
    assert (len(jobs), app.store.calls["get"]) == (150, before + 1)


# ---- too many deliveries


def test_of_an_ordered_bundle_that_ends_its_process_the_first_call_fails(app: Bench) -> None:
    app.configure_deliveries(1)
    Tasks(app)
    step: Any = app.tasks["same"].options(group_key="g")
    app.publish([step.prepare(n) for n in range(3)], bundle=3)
    jobs, settled = app.runner.open(app.receive())
    while not settled:
        assert len(jobs) == 3
        app.lose_leases()
        jobs, settled = app.runner.open(app.receive())
    assert [outcome.state for _, outcome in settled] == [State.FAILURE]
    assert [job.message.args for job in jobs] == [[1], [2]]


def test_without_a_store_the_deliveries_of_an_ordered_message_are_its_retries() -> None:
    with CloudQ("bare", broker="memory://bare-ordered", backend="none") as app:
        seen: list[int] = []

        @app.task(name="step", bind=True, max_retries=2, default_retry_delay=0.0)
        def step(self: Task[..., Any]) -> None:
            seen.append(self.request.retries)
            raise self.retry()

        step.apply_async(group_key="g")
        runner = app.executor()
        outcomes: list[Settlement] = []
        for _ in range(3):
            [delivery] = app.broker.receive("default", count=1, wait=5.0, lease=60.0)
            jobs, _ = runner.open([delivery])
            outcomes.append(runner.run(jobs[0]))
            app.broker.release([delivery])
        assert seen == [0, 1, 2]
        assert outcomes[-1].state is State.FAILURE


# ---- given ids


def test_a_later_call_of_an_id_runs_while_the_earlier_one_does(app: Bench) -> None:
    ran: list[int] = []
    task = app.task(name="t", track_started=True)(ran.append)
    task.apply_async([1], task_id="mine")
    first = app.job(app.one())
    app.runner.run(first)
    task.apply_async([2], task_id="mine")
    app.runner.run(app.job(app.one()))
    assert ran == [1, 2]


def test_a_later_call_of_an_id_that_was_revoked_runs(app: Bench) -> None:
    ran: list[int] = []
    task = app.task(name="t")(ran.append)
    task.apply_async([1], task_id="mine").revoke()
    app.work()
    assert app.state("mine") is State.REVOKED
    result = task.apply_async([2], task_id="mine")
    app.work()
    assert (ran, app.state(result)) == ([2], State.SUCCESS)


# ---- who hears of it


@pytest.fixture
def rejected() -> Iterator[list[tuple[bytes, BaseException]]]:
    told: list[tuple[bytes, BaseException]] = []

    def hear(*_: object, message: bytes, exc: BaseException, **__: object) -> None:
        told.append((message, exc))

    signals.task_rejected.connect(hear)
    yield told
    signals.task_rejected.disconnect(hear)


@pytest.mark.parametrize(
    "body", [b"{", b'{"v":1,"id":"a","task":"same","chain":[{"bogus":1}]}'], ids=["text", "part"]
)
def test_receivers_hear_of_what_cannot_be_read(
    app: Bench, t: Tasks, rejected: Sequence[tuple[bytes, BaseException]], body: bytes
) -> None:
    assert not app.memory.send("default", [Outgoing(id="a", body=body)])
    [(_, outcome)] = app.runner.open(app.receive())[1]
    assert outcome.action is Action.DEAD_LETTER
    assert [told for told, _ in rejected] == [body]


def test_receivers_hear_of_tasks_that_nobody_has_and_of_no_others_that_are_refused(
    app: Bench, t: Tasks
) -> None:
    told: list[str] = []

    def hear(*_: object, name: str, **__: object) -> None:
        told.append(name)

    app.conf.queue_tasks = {"default": ["same"]}
    for name in ("same", "told", "nobody's"):
        body = json.dumps({"v": 1, "id": name, "task": name, "args": [1]}).encode()
        assert not app.memory.send("default", [Outgoing(id=name, body=body)])
    signals.task_unknown.connect(hear)
    try:
        jobs, settled = app.runner.open(app.receive())
    finally:
        signals.task_unknown.disconnect(hear)
    assert ([job.message.id for job in jobs], len(settled)) == (["same"], 2)
    assert told == ["nobody's"]


def test_receivers_hear_of_what_is_not_run_since_it_was_revoked(app: Bench, t: Tasks) -> None:
    told: list[tuple[str, bool]] = []

    def hear(*_: object, request: Any, expired: bool, **__: object) -> None:
        told.append((request.id, expired))

    revoked, late = t.same.delay(1), t.same.options(expires=5.0).delay(2)
    revoked.revoke()
    app.clock.ahead += 10.0
    signals.task_revoked.connect(hear)
    try:
        app.work()
    finally:
        signals.task_revoked.disconnect(hear)
    assert told == [(revoked.id, False), (late.id, True)]


def test_a_scheduled_message_runs_under_the_id_of_its_run(app: Bench, t: Tasks) -> None:
    headers = {SCHEDULE: "nightly", SLOT: "2026-11-21T07:30:00Z", EXPIRES: "1e9"}
    body = json.dumps({"v": 1, "id": "x", "task": "same", "headers": headers}).encode()
    assert not app.memory.send("default", [Outgoing(id="x", body=body)])
    job = app.job(app.one())
    assert job.message.id == job.message.idempotency_key == "nightly@2026-11-21T07:30:00Z"


# ---- of one delivery


def test_a_call_that_comes_from_another_queue_is_one_of_that(app: Bench, t: Tasks) -> None:
    t.same.delay(1)
    [sent] = app.memory.peek("default", count=1)
    app.memory.create("moved", lease=60.0, max_deliveries=5)
    assert not app.memory.send("moved", [Outgoing(id="a", body=sent.body)])
    job = app.job(app.one(queue="moved"))
    assert job.message.queue == "moved"
    assert app.job(app.one()).message.queue == "default"


def test_records_of_redelivered_calls_are_read_as_they_are_now(app: Bench, t: Tasks) -> None:
    """An eventually consistent read, which costs half, may not have what was just written."""
    t.same.delay(1)
    app.job(app.one())
    assert (app.store.calls["get"], app.store.consistent) == (1, 0)
    app.lose_leases()
    app.job(app.one())
    assert app.store.consistent == 1


def test_what_no_store_has_a_record_of_ends_without_one(
    app: Bench, t: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object, **__: object) -> Any:
        raise BackendError("an id that cannot be", code=Code.INVALID)

    calls = [t.same.delay(n) for n in range(2)]
    monkeypatch.setattr(app.results, "records", refusing)
    jobs, settled = app.runner.open(app.receive())
    assert jobs == []
    assert [outcome.task_id for _, outcome in settled] == [call.id for call in calls]
    assert {(outcome.action, outcome.record) for _, outcome in settled} == {
        (Action.DEAD_LETTER, None)
    }


def test_who_interrupts_the_opening_of_messages_is_heard(
    app: Bench, t: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    t.same.apply_async((1,), headers={SCHEDULE: "nightly"})
    monkeypatch.setattr(admission, "resolved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        app.runner.open(app.receive())
