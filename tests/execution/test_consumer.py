"""A consumer finishes what it began: it asks again where that helps, and says what stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cloudq import BackendError, BrokerError, Reject, State
from cloudq.driver import Code, Delivery, Failure
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Action, Settlement
from tests.support.bench import Bench


@pytest.fixture
def runs(app: Bench) -> list[Any]:
    seen: list[Any] = []
    app.task(name="t")(seen.append)
    return seen


def consumer(app: Bench, **options: Any) -> Consumer:
    return Consumer(app.executor(), log=Log("test"), **options)


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


def test_behind_a_call_of_its_group_that_stays_none_of_a_bundle_is_run(app: Bench) -> None:
    ran: list[int] = []

    @app.task(name="step")
    def step(n: int) -> int:
        ran.append(n)
        if ran == [0, 1]:
            raise Reject("not yet", requeue=True)
        return n

    grouped = step.options(group_key="g")
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

    @app.task(name="step")
    def step(n: int) -> int:
        ran.append(n)
        if ran == [0, 1]:
            raise Reject("not yet", requeue=True)
        return n

    app.publish([step.prepare(n) for n in range(4)], bundle=4)
    consumer(app).consume(app.receive())
    assert ran == [0, 1, 2, 3]
