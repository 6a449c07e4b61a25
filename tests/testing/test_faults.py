"""Fault plans: each kind of fault happens as declared, and no task is lost by any of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudq import CloudQ, ConfigurationError, PublishError, State
from cloudq.driver import BrokerDriver, Code, Item, Key, Outgoing, Scheduling, VirtualTime
from cloudq.testing import FaultPlan, VirtualClock, in_memory, run_until_idle, worker
from cloudq.testing.kit.plan import BROKER_CALLS, POINTS, STORE_CALLS
from cloudq_local.memory_backend import MemoryBackend, MemoryItems
from cloudq_local.memory_broker import MemoryBroker, MemoryQueues


@pytest.fixture
def plan() -> FaultPlan:
    return FaultPlan(seed=1)


@pytest.fixture
def app(plan: FaultPlan) -> Iterator[CloudQ]:
    """An app in memory and virtual time with the plan in front, and three tasks that tell."""
    clock = VirtualClock()
    with CloudQ("faulty", broker="memory://f") as made, in_memory(made, clock=clock, faults=plan):
        yield made


def ran(app: CloudQ, name: str = "t", *, queue: str = "default", **options: Any) -> list[Any]:
    """A task that keeps its arguments in the list."""
    seen: list[Any] = []
    app.task(name=name, queue=queue, **options)(lambda n: seen.append(n))
    return seen


def send(app: CloudQ, count: int, name: str = "t") -> list[Any]:
    return [app.send_task(name, (n,)) for n in range(count)]


def clock_of(app: CloudQ) -> VirtualClock:
    found = app.runtime.services.clock
    assert isinstance(found, VirtualClock)
    return found


def test_a_message_is_delivered_twice(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app, ignore_result=True)
    plan.deliver_twice(task="t", nth=2)
    send(app, 3)
    run_until_idle(app)
    plan.assert_all_happened()
    assert Counter(seen) == {0: 1, 1: 2, 2: 1}


def test_a_second_delivery_of_a_task_that_has_ended_does_not_run_it(
    app: CloudQ, plan: FaultPlan
) -> None:
    seen = ran(app)
    plan.deliver_twice(task="t")
    send(app, 1)
    reasons = [settlement.reason for settlement in run_until_idle(app)]
    plan.assert_all_happened()
    assert (seen, reasons) == ([0], ["", "already done"])


def test_a_message_is_overtaken_by_the_one_behind_it(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    plan.deliver_late(queue="default", nth=2)
    send(app, 4)
    run_until_idle(app)
    plan.assert_all_happened()
    assert seen == [0, 2, 1, 3]


def test_a_message_with_none_behind_it_is_late_another_time(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    plan.deliver_late(task="t")
    send(app, 1)
    run_until_idle(app)
    with pytest.raises(AssertionError, match="delivered late at receive"):
        plan.assert_all_happened()
    send(app, 2)
    run_until_idle(app)
    plan.assert_all_happened()
    assert seen == [0, 1, 0]


def test_the_order_of_a_group_is_kept(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    plan.deliver_late(queue="default", chance=1)
    for n in range(3):
        app.send_task("t", (n,), group_key="g")
    run_until_idle(app)
    assert seen == [0, 1, 2]
    with pytest.raises(AssertionError, match="0 times, 0 met"):
        plan.assert_all_happened()


def test_a_grouped_message_is_not_the_one_that_is_late(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    plan.deliver_late(queue="default")
    for n, group in enumerate(("g", None, None)):
        app.send_task("t", (n,), **({"group_key": group} if group else {}))
    run_until_idle(app)
    assert seen == [0, 2, 1]


@pytest.mark.parametrize("at", [*POINTS, "put", "ack"])
@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_dies_leaves_the_message_to_its_lease(
    app: CloudQ, plan: FaultPlan, at: str, after: bool
) -> None:
    if after and at in POINTS:
        with pytest.raises(ConfigurationError, match="after=True is for a driver's call"):
            plan.die(at, after=after)
        return
    seen = ran(app)
    plan.die(at, after=after, task="t")
    (result,) = send(app, 1)
    assert run_until_idle(app) == []
    recorded = (at, after) == ("put", True) or at == "ack"
    assert result.state is (State.SUCCESS if recorded else State.PENDING)
    clock_of(app).advance(60)
    run_until_idle(app)
    plan.assert_all_happened()
    # What was recorded is known to be done; of anything else nobody can know.
    assert len(seen) == (1 if at == "start" or recorded else 2)
    assert result.get(timeout=0) is None
    clock_of(app).advance(60)
    assert run_until_idle(app) == []


def test_a_worker_dies_within_a_task_when_it_sends(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app, "second")
    runs: list[int] = []

    @app.task(name="first")
    def first() -> None:
        runs.append(1)
        try:
            app.send_task("second", (1,))
        except BaseException:
            logging.getLogger(__name__).info("a task's own code cannot keep its worker alive")

    plan.die("send", after=True, task="second")
    result = first.delay()
    run_until_idle(app)
    assert result.state is State.PENDING
    clock_of(app).advance(60)
    run_until_idle(app)
    plan.assert_all_happened()
    assert (len(runs), seen, result.state) == (2, [1, 1], State.SUCCESS)


def test_a_response_is_lost_after_the_message_was_sent(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    plan.lose_response("send", task="t")
    result = send(app, 1)[0]  # sent again, since nobody knows; the queue knows the id
    run_until_idle(app)
    assert (seen, result.state) == ([0], State.SUCCESS)
    plan.assert_all_happened()


def test_a_publish_whose_responses_are_all_lost_fails_though_it_was_sent(
    app: CloudQ, plan: FaultPlan
) -> None:
    app.conf.publish_retries = 0
    seen = ran(app)
    plan.lose_response("send", task="t")
    with pytest.raises(PublishError, match="the response was lost, as planned"):
        send(app, 1)
    run_until_idle(app)
    assert seen == [0]


@pytest.mark.parametrize("call", ["receive", "ack", "put", "get"])
def test_a_worker_lives_through_lost_responses(app: CloudQ, plan: FaultPlan, call: str) -> None:
    seen = ran(app)
    plan.lose_response(call, times=2)
    results = send(app, 2)
    run_until_idle(app)
    clock_of(app).advance(60)
    run_until_idle(app)
    plan.assert_all_happened()
    assert sorted(seen) == [0, 1]
    assert all(result.state is State.SUCCESS for result in results)


@pytest.mark.parametrize("call", ["send", "receive", "ack", "put", "get"])
def test_busy_services_are_asked_again(app: CloudQ, plan: FaultPlan, call: str) -> None:
    seen = ran(app)
    plan.throttle(call, nth=1, times=3)
    results = send(app, 2)
    run_until_idle(app)
    plan.assert_all_happened()
    assert (sorted(seen), [r.state for r in results]) == ([0, 1], [State.SUCCESS] * 2)


def test_virtual_time_has_no_pauses_between_tries(app: CloudQ, plan: FaultPlan) -> None:
    app.conf.publish_retries = 14  # the pauses would come to half an hour
    seen = ran(app)
    plan.throttle("send", times=14)
    send(app, 1)
    run_until_idle(app)
    plan.assert_all_happened()
    assert seen == [0]


def test_a_claim_on_a_key_is_held_by_virtual_time(app: CloudQ, plan: FaultPlan) -> None:
    clock, times = clock_of(app), list[float]()
    clock.advance(10_000)  # a claim that went by the real time would have ended already
    start = clock()
    app.task(name="once", idempotent=True)(lambda n: times.append(clock() - start))
    plan.die("end", task="once")
    send(app, 1, "once")
    send(app, 1, "once")
    for _ in range(20):  # the second asks every 5 s, until the first has come back and ended
        run_until_idle(app)
        clock.advance(5)
    plan.assert_all_happened()
    assert times == [0, 60]


def test_only_the_messages_that_are_meant_are_throttled(plan: FaultPlan) -> None:
    driver = plan.throttle("send", nth=2).broker(MemoryBroker(MemoryQueues()))
    messages = [Outgoing(id=str(n), body=b"no task of ours") for n in range(3)]
    (refused,) = driver.send("q", messages)
    assert (refused.index, refused.code) == (1, Code.THROTTLED)
    assert [d.id for d in driver.receive("q", count=9, wait=0, lease=9)] == ["0", "2"]
    driver.close()


def test_services_that_are_down_for_some_calls(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    (result,) = send(app, 1)
    plan.broker_down(calls=5).store_down(calls=5)
    with pytest.raises(PublishError, match="the service is down, as planned"):
        send(app, 1)
    run_until_idle(app)
    plan.assert_all_happened()
    assert (seen, result.state) == ([0], State.SUCCESS)


def test_a_service_that_stays_down_is_told(app: CloudQ, plan: FaultPlan) -> None:
    ran(app)
    send(app, 1)
    plan.store_down(calls=10_000)
    with pytest.raises(Exception, match="the service is down, as planned"):
        run_until_idle(app)


def test_a_worker_in_threads_shows_a_service_that_stays_down() -> None:
    plan = FaultPlan().store_down(calls=10_000)
    with CloudQ("down", broker="memory://down") as app, worker(app, faults=plan) as running:
        ran(app)
        send(app, 1)
        with pytest.raises(Exception, match="the service is down, as planned"):
            running.run_until_idle()


def test_faults_are_for_the_queue_and_the_task_they_name(app: CloudQ, plan: FaultPlan) -> None:
    here, there = ran(app, "here"), ran(app, "there", queue="there")
    plan.die("start", task="there", nth=2).die("end", queue="default")
    send(app, 2, "here")
    send(app, 2, "there")
    run_until_idle(app)
    assert (sorted(here), sorted(there)) == ([0, 1], [0])
    plan.assert_all_happened()
    assert [line.partition(":")[0] for line in plan.happened] in (
        ["end 1 of here", "start 2 of there"],
        ["start 2 of there", "end 1 of here"],
    )


def test_chances_are_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> list[str]:
        plan = FaultPlan(seed).deliver_twice(chance=0.3)
        driver = plan.broker(MemoryBroker(MemoryQueues()))
        driver.send("q", [Outgoing(id=str(n), body=b"x") for n in range(40)])
        found = [d for _ in range(3) for d in driver.receive("q", count=50, wait=0, lease=9)]
        driver.close()
        return sorted(delivery.id for delivery in found)

    assert drawn(1) == drawn(1) != drawn(2)
    assert 40 < len(drawn(1)) < 60


def test_impossible_faults_are_refused(plan: FaultPlan) -> None:
    with pytest.raises(ConfigurationError, match="there is no call 'sent': did you mean send"):
        plan.throttle("sent")
    with pytest.raises(ConfigurationError, match="so name the queue"):
        plan.lose_response("receive", task="t")
    with pytest.raises(ConfigurationError, match="count from 1"):
        plan.deliver_twice(nth=0)
    with pytest.raises(ConfigurationError, match="chance is above 0"):
        plan.deliver_twice(chance=2)
    with pytest.raises(TypeError, match="a fault has no 'tusk'"):
        plan.deliver_twice(tusk="t")


def test_a_driver_behind_a_plan_keeps_its_other_protocols(plan: FaultPlan) -> None:
    driver = plan.broker(MemoryBroker(MemoryQueues()))
    assert isinstance(driver, Scheduling)
    assert isinstance(driver, VirtualTime)
    store = plan.store(MemoryBackend(MemoryItems()))
    assert store.limits == MemoryBackend.limits
    plan.throttle("put")
    (refused,) = store.put([Item(key=Key("a"), fields={"n": 1})])
    assert refused.code is Code.THROTTLED
    assert not store.get([Key("a")], consistent=True)

    class Plain:
        send = driver.send

    bare: Any = Plain()
    wrapped: BrokerDriver = FaultPlan().broker(bare)
    assert not hasattr(wrapped, "schedule")


FAULTS = st.one_of(
    st.tuples(st.sampled_from(["deliver_twice", "deliver_late"])),
    st.tuples(st.just("die"), st.sampled_from([*POINTS, "send", "ack", "put", "get"])),
    st.tuples(
        st.sampled_from(["lose_response", "throttle"]),
        st.sampled_from([*BROKER_CALLS, *STORE_CALLS]),
    ),
    st.tuples(st.sampled_from(["broker_down", "store_down"]), st.integers(1, 5)),
)


@pytest.mark.slow
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(faults=st.lists(st.tuples(FAULTS, st.integers(1, 6)), max_size=6))
def test_no_plan_loses_a_task(faults: list[tuple[tuple[Any, ...], int]]) -> None:
    plan, clock = FaultPlan(), VirtualClock()
    with CloudQ("model", broker="memory://m") as app, in_memory(app, clock=clock, faults=plan):
        seen: list[int] = []

        @app.task(name="t", autoretry_for=[OSError], default_retry_delay=5.0)
        def task(n: int) -> None:
            seen.append(n)
            if n % 2 and seen.count(n) == 1:
                raise OSError("the first time")

        ids = [f"task-{n}" for n in range(5)]
        for n, id in enumerate(ids):
            app.send_task("t", (n,), task_id=id, countdown=60.0 * (n % 3))
        for (name, *args), nth in faults:
            getattr(plan, name)(*args, nth=nth)
        for _ in range(20):
            run_until_idle(app)
            clock.advance(max(0.0, min(clock.next_due, clock() + 3600) - clock()))
        run_until_idle(app)
        plan.faults.clear()
        assert [app.AsyncResult(id).state for id in ids] == [State.SUCCESS] * 5
        assert clock.next_due == float("inf")
        assert set(seen) == set(range(5))


def test_a_plan_knows_the_task_of_a_bundle(app: CloudQ, plan: FaultPlan) -> None:
    seen = ran(app)
    plan.deliver_twice(task="t")
    results = app.publish([app.tasks["t"].prepare(n) for n in range(4)], bundle=4)
    run_until_idle(app)
    assert sorted(set(seen)) == [0, 1, 2, 3]
    assert [result.state for result in results] == [State.SUCCESS] * 4
    plan.assert_all_happened()
