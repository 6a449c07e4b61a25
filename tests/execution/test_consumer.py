"""A consumer finishes what it began: it asks again where that helps, and says what stays."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloudq import BackendError, BrokerError, Reject, State, Task
from cloudq.driver import Code, Delivery, Failure, Outgoing
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer, log_outcome
from cloudq.execution.settlement import Action, Settlement
from tests.support.bench import Bench


@pytest.fixture
def runs(app: Bench) -> list[Any]:
    seen: list[Any] = []
    app.task(name="t")(seen.append)
    return seen


def consumer(app: Bench, log: str = "test", **options: Any) -> Consumer:
    return Consumer(app.executor(), log=Log(log), **options)


def outcomes(app: Bench, consumer: Consumer) -> list[tuple[Delivery, Settlement]]:
    jobs, settled = consumer.open(app.receive())
    assert not settled
    return [(job.delivery, consumer.run_job(job)) for job in jobs]


def test_what_cannot_be_recorded_is_not_settled_and_says_so(app: Bench, runs: list[Any]) -> None:
    call = app.tasks["t"].delay(1)
    app.store.down.add("put")
    with pytest.raises(BackendError, match="store is down"):
        consumer(app).consume(app.receive())
    assert (app.left(), runs) == (1, [1])
    app.store.down.clear()
    app.lose_leases()
    assert [each.task_id for _, each in consumer(app).consume(app.receive())] == [call.id]
    assert app.left() == 0


def test_messages_that_stay_are_counted_with_the_first_reason(app: Bench, runs: list[Any]) -> None:
    for n in range(2):
        app.tasks["t"].delay(n)
    hasty = consumer(app)
    pairs = outcomes(app, hasty)
    codes = [Code.THROTTLED, Code.UNKNOWN]

    def refuse(deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        return [Failure(index=at, code=code, reason=f"no {at}") for at, code in enumerate(codes)]

    app.wire.ack = refuse  # type: ignore[method-assign]
    with pytest.raises(BrokerError, match="2 messages not settled: no 0") as raised:
        hasty.finish(pairs)
    assert raised.value.code is Code.THROTTLED
    codes = []
    assert hasty.finish(pairs) == pairs


def refusing(app: Bench, codes: Iterator[Code], asked: list[int]) -> None:
    """Have the broker refuse the ack of the last message of each batch, for these reasons."""
    ack = app.memory.ack

    def partly(deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        asked.append(len(deliveries))
        code = next(codes, None)
        if code is None:
            return ack(deliveries)
        ack(deliveries[:-1])
        return [Failure(index=len(deliveries) - 1, code=code, reason="refused on purpose")]

    app.wire.ack = partly  # type: ignore[method-assign]


def test_only_what_was_refused_is_settled_again(app: Bench, runs: list[Any]) -> None:
    for n in range(3):
        app.tasks["t"].delay(n)
    asked: list[int] = []
    refusing(app, iter([Code.THROTTLED, Code.THROTTLED]), asked)
    patient = consumer(app, tries=3)
    batch = patient.commit(outcomes(app, patient))
    assert patient.dispose(batch.ready) == []
    assert (asked, app.left()) == ([3, 1, 1], 0)


def test_it_gives_up_after_so_many_tries_and_names_what_stays(app: Bench, runs: list[Any]) -> None:
    for n in range(3):
        app.tasks["t"].delay(n)
    asked: list[int] = []
    refusing(app, iter([Code.THROTTLED] * 9), asked)
    patient = consumer(app, tries=2)
    pairs = outcomes(app, patient)
    [refused] = patient.dispose(patient.commit(pairs).ready)
    assert refused.delivery is pairs[-1][0]
    assert asked == [3, 1]


def test_a_lost_lease_is_not_asked_for_again(app: Bench, runs: list[Any]) -> None:
    app.tasks["t"].delay(1)
    asked: list[int] = []
    refusing(app, iter([Code.LEASE_LOST]), asked)
    patient = consumer(app, tries=3)
    assert patient.dispose(patient.commit(outcomes(app, patient)).ready) == []
    assert asked == [1]


def test_what_a_store_refuses_is_recorded_at_the_next_try_and_told_once(
    app: Bench, runs: list[Any]
) -> None:
    calls = [app.tasks["t"].delay(n) for n in range(3)]
    busy = [calls[1].id]

    def refuse(item: Any) -> Code | None:
        return Code.THROTTLED if busy and busy.pop() else None

    app.store.refuse = refuse
    told: list[str] = []

    def hear(settlement: Settlement) -> None:
        told.append(settlement.task_id)

    patient = consumer(app, tries=2, heard=hear)
    batch = patient.commit(outcomes(app, patient))
    assert (len(batch.ready), batch.failed) == (3, [])
    assert sorted(told) == sorted(call.id for call in calls)
    assert [app.state(call) for call in calls] == [State.SUCCESS] * 3


def test_where_another_try_does_not_help_none_is_made(app: Bench, runs: list[Any]) -> None:
    app.tasks["t"].delay(1)
    hasty = consumer(app, tries=5)
    pairs = outcomes(app, hasty)
    app.store.down.add("put")
    before = app.store.calls["put"]
    assert len(hasty.commit(pairs).failed) == 1
    assert app.store.calls["put"] == before + 1
    eager = consumer(app, tries=3, again={Code.UNREACHABLE})
    assert len(eager.commit(pairs).failed) == 1
    assert app.store.calls["put"] == before + 4


def steps(app: Bench, ran: list[int]) -> Task[..., Any]:
    """A task whose second call goes back once."""

    @app.task(name="step")
    def step(n: int) -> int:
        ran.append(n)
        if ran == [0, 1]:
            raise Reject("not yet", requeue=True)
        return n

    return step


def test_behind_a_call_of_its_group_that_stays_none_of_a_bundle_is_run(app: Bench) -> None:
    ran: list[int] = []
    grouped = steps(app, ran).options(group_key="g")
    results = app.publish([grouped.prepare(n) for n in range(4)], bundle=4)
    assert app.left() == 1
    done = {each.task_id: each.action for _, each in consumer(app).consume(app.receive())}
    assert [done[result.id] for result in results] == [Action.ACK, *[Action.RELEASE] * 3]
    assert ran == [0, 1]
    while app.left():
        app.clock.ahead += 10.0
        consumer(app).consume(app.receive())
    assert ran == [0, 1, 1, 2, 3]
    assert [result.get(timeout=0) for result in results] == [0, 1, 2, 3]


def test_without_a_group_the_others_of_a_bundle_run(app: Bench) -> None:
    ran: list[int] = []
    step = steps(app, ran)
    app.publish([step.prepare(n) for n in range(4)], bundle=4)
    consumer(app).consume(app.receive())
    assert ran == [0, 1, 2, 3]


def test_behind_a_message_that_another_has_by_now_no_call_of_its_group_is_run(app: Bench) -> None:
    ran: list[int] = []

    @app.task(name="step")
    def step(n: int) -> int:
        ran.append(n)
        if n == 0:  # its lease ends as it runs, and another takes it over
            app.lose_leases()
            app.job(app.one())
        return n

    grouped = step.options(group_key="g")
    grouped.delay(0)
    app.publish([grouped.prepare(n) for n in (1, 2)], bundle=2)
    app.one()
    app.lose_leases()
    first = app.one()
    bodies = [each.body for each in app.memory.peek("default", count=2)]
    [body] = [each for each in bodies if each != first.body]
    # A FIFO queue of SQS gives several messages of a group at once, in their order.
    behind = replace(first, id="behind", body=body, attempts=1)
    done = consumer(app).consume([first, behind])
    assert ran == [0]
    assert [each.action for _, each in done] == [Action.NOTHING, Action.RELEASE, Action.RELEASE]


# ---- the log


@pytest.mark.parametrize("tracebacks", [False, True])
def test_each_outcome_is_logged_in_one_line(
    app: Bench, caplog: pytest.LogCaptureFixture, tracebacks: bool
) -> None:
    def end(how: str) -> None:
        if how == "fail":
            raise ValueError("on purpose")
        if how == "back":
            raise Reject("not yet", requeue=True)

    task = app.task(name="t", max_retries=0)(end)
    well, ill, back = (task.delay(how) for how in ("end", "fail", "back"))
    app.memory.send("default", [Outgoing(id="odd", body=b"{")])
    odd = app.memory.peek("default", count=4)[-1].id
    with caplog.at_level(logging.DEBUG, "test.outcomes"):
        consumer(app, "test.outcomes", tracebacks=tracebacks).consume(app.receive())
    lines = {
        record.getMessage().partition(": ")[0]: record
        for record in caplog.records
        if record.name == "test.outcomes"
    }
    assert lines.keys() == {
        *(f"task t {call.id}" for call in (well, ill, back)),
        f"message {odd} of default",
    }
    done, failed = lines[f"task t {well.id}"], lines[f"task t {ill.id}"]
    assert (done.levelname, done.getMessage()) == ("DEBUG", f"task t {well.id}: SUCCESS")
    assert failed.levelname == ("ERROR" if tracebacks else "WARNING")
    assert failed.getMessage() == f"task t {ill.id}: FAILURE (ValueError: on purpose)"
    assert bool(failed.exc_info) is tracebacks
    assert (failed.__dict__["task_id"], failed.__dict__["state"]) == (ill.id, "FAILURE")
    returned = lines[f"task t {back.id}"]
    assert (returned.levelname, "(not yet)" in returned.getMessage()) == ("INFO", True)
    assert lines[f"message {odd} of default"].levelname == "WARNING"


def test_successes_are_not_logged_but_for_who_looks_for_faults(
    app: Bench, runs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    app.tasks["t"].delay(1)
    with caplog.at_level(logging.INFO, "test.outcomes"):
        consumer(app, "test.outcomes").consume(app.receive())
    assert [record for record in caplog.records if record.name == "test.outcomes"] == []


def test_a_message_of_a_call_without_a_task_s_name_goes_by_what_it_has(
    app: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of a call that one can only tell by its id, or by its task."""
    task = app.task(name="t")(lambda: None)
    task.delay()
    [delivery] = app.receive()
    log = Log("test.outcomes")
    for name, id, said in (
        ("", "x", "task ? x"),
        ("t", "", "task t ?"),
        ("", "", f"message {delivery.id} of default"),
    ):
        caplog.clear()
        outcome = Settlement(action=Action.DEAD_LETTER, reason="no", task=name, task_id=id)
        log_outcome(log, outcome, delivery)
        assert f"{said}: dead-letter (no)" in caplog.text
