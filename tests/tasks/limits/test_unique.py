"""One call of a key is queued or runs at a time; the second gets the first's result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from cloudq import (
    BackendError,
    BrokerError,
    CloudQ,
    ConfigurationError,
    InvalidArguments,
    PublishError,
    Reject,
    State,
    group,
)
from cloudq.driver import Code
from cloudq.execution.settlement import Action
from cloudq.worker.pool import pipe
from tests.support.bench import Bench


class Order(BaseModel):
    id: int


@pytest.fixture
def unique(app: Bench) -> Any:
    @app.task(name="t", unique="user:{user}")
    def task(user: int, n: int = 0) -> int:
        return n

    return task


def test_the_second_call_is_the_first(app: Bench, unique: Any) -> None:
    first, second, other = unique.delay(1, 5), unique.delay(1, 6), unique.delay(2)
    assert second == first
    assert other != first
    assert len(app.sent()) == 2
    app.work()
    assert second.get(timeout=0) == 5


def test_when_it_has_ended_the_next_is_a_call_of_its_own(app: Bench, unique: Any) -> None:
    first = unique.delay(1, 5)
    app.work()
    second = unique.delay(1, 6)
    assert second != first
    app.work()
    assert second.get(timeout=0) == 6


def test_while_it_runs_it_counts_as_well(app: Bench) -> None:
    inside: list[Any] = []

    @app.task(name="t", unique=True)
    def task(n: int) -> None:
        inside.append(task.delay(n))

    first = task.delay(1)
    app.work()
    assert inside == [first]


def test_true_compares_all_arguments(app: Bench) -> None:
    @app.task(name="t", unique=True)
    def task(*args: object, **kwargs: object) -> None: ...

    calls = [((1,), {}), ((2,), {}), ((1,), {"a": 1}), ((1,), {}), ((), {})]
    assert len({task.apply_async(*call) for call in calls}) == 4


def test_a_call_may_name_its_key(app: Bench) -> None:
    task = app.task(name="t")(lambda: None)
    first = task.apply_async(unique_key="k")
    assert task.apply_async(unique_key="k") == first
    assert app.send_task("t", unique_key="k") == first
    assert app.send_task("elsewhere", unique_key="k") != first
    assert task.apply_async(unique_key="j") != first


@pytest.mark.parametrize("end", [ValueError("bad"), Reject("no"), SystemExit("out")])
def test_every_end_frees_the_key(app: Bench, end: BaseException) -> None:
    @app.task(name="t", unique="k", max_retries=0)
    def task() -> None:
        raise end

    first = task.delay()
    app.work()
    assert task.delay() != first


def test_a_retry_keeps_the_key(app: Bench) -> None:
    @app.task(name="t", unique="k", autoretry_for=[OSError], max_retries=1)
    def task() -> None:
        raise OSError

    first = task.delay()
    assert app.step().state is State.RETRY
    assert task.delay() == first
    app.work()
    assert task.delay() != first


def test_a_call_that_leaves_no_result_frees_the_key(app: Bench) -> None:
    @app.task(name="t", unique="k", ignore_result=True)
    def task() -> None: ...

    first = task.delay()
    app.work()
    assert task.delay() != first


def test_a_revoked_or_expired_call_frees_the_key(app: Bench, unique: Any) -> None:
    first = unique.delay(1)
    first.revoke()
    app.work()
    second = unique.apply_async([1], expires=1)
    assert second != first
    app.clock.ahead += 2
    app.work()
    assert unique.delay(1) != second


def test_a_call_that_was_taken_back_before_its_time_holds_no_key(app: Bench, unique: Any) -> None:
    app.wire.change_limits = lambda limits: replace(limits, max_delay=0.0)  # so it is parked
    first = unique.apply_async([1], countdown=3600)
    assert unique.delay(1) == first
    first.revoke()
    assert unique.delay(1) != first


def test_a_publisher_that_dies_before_it_sends_keeps_others_out_for_a_minute(
    app: Bench, unique: Any
) -> None:
    app.wire.down.add("send")
    app.store.down.add("nothing")
    # It dies: what would free the key never gets to the store.
    original = app.store.update
    calls: list[int] = []

    def once(key: Any, change: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise ConnectionError("gone")
        return original(key, change)

    app.store.update = once  # type: ignore[method-assign]
    with pytest.raises(BrokerError):
        unique.delay(1)
    app.store.update = original  # type: ignore[method-assign]
    app.wire.down.clear()
    lost = unique.delay(1)
    assert app.sent() == []
    app.clock.ahead += 61
    assert unique.delay(1) != lost
    assert len(app.sent()) == 1


def test_what_the_broker_does_not_take_frees_its_key(app: Bench, unique: Any) -> None:
    app.wire.refuse = lambda message: Code.INVALID if b'"args":[2]' in message.body else None
    with pytest.raises(PublishError):
        app.publish(unique.prepare(n) for n in (1, 2))
    app.wire.refuse = lambda message: None
    results = app.publish(unique.prepare(n) for n in (1, 2))
    assert len(app.sent()) == 2
    assert results[0].id == app.sent()[0]["id"]


def test_many_are_published_once_each(app: Bench, unique: Any) -> None:
    results = app.publish(unique.prepare(n % 3, n) for n in range(9))
    assert len(app.sent()) == 3
    app.work()
    assert [result.get(timeout=0) for result in results] == [0, 1, 2] * 3


def test_a_claim_counts_for_as_long_as_the_task_says(app: Bench) -> None:
    @app.task(name="t", unique="k", unique_for=100.0)
    def task() -> None: ...

    first = task.apply_async(countdown=1000)
    app.clock.ahead += 1090
    assert task.delay() == first
    app.clock.ahead += 20
    assert task.delay() != first


def test_a_late_end_does_not_free_the_key_of_its_successor(app: Bench) -> None:
    @app.task(name="t", unique="k", unique_for=100.0)
    def task() -> None: ...

    task.delay()
    late = app.one()
    settlement = app.settle(late)
    app.clock.ahead += 30
    app.clock.ahead += 80
    second = task.delay()
    app.finish(late, settlement)
    assert task.delay() == second


def test_an_end_that_cannot_free_its_key_is_tried_again(app: Bench, unique: Any) -> None:
    first = unique.delay(1)
    delivery = app.one()
    settlement = app.settle(delivery)
    app.store.down.add("update")
    with pytest.raises(AssertionError, match="update"):
        app.finish(delivery, settlement)
    app.store.down.clear()
    app.finish(delivery, settlement)
    assert unique.delay(1) != first


def test_the_end_comes_from_the_child_with_its_key(app: Bench, unique: Any) -> None:
    unique.delay(1)
    settlement = app.settle(app.one())
    assert settlement.unique_claim is not None
    assert pipe.unpack_settlement(pipe.pack_settlement(3, settlement)) == settlement


def test_members_of_a_workflow_are_all_sent(app: Bench, unique: Any) -> None:
    result = group(unique.s(1, n) for n in range(3)).delay()
    app.work()
    assert result.get(timeout=0) == [0, 1, 2]
    with pytest.raises(InvalidArguments, match="unique_key is for single calls"):
        group(unique.s(1).set(unique_key="k"), unique.s(2)).delay()


def test_a_unique_call_costs_four_requests(app: Bench, unique: Any) -> None:
    unique.delay(1)
    assert app.store.calls == {"update": 2}
    app.step()
    assert app.store.calls == {"update": 4, "get": 1, "put": 1}


def test_with_the_store_down_nothing_is_sent(app: Bench, unique: Any) -> None:
    app.store.down.add("update")
    with pytest.raises(BackendError):
        unique.delay(1)
    assert app.sent() == []


def test_what_can_be_no_rule_is_refused(app: Bench) -> None:
    for rule in ("", 3, None, "{nobody}"):
        with pytest.raises(ConfigurationError, match="task t: unique is"):
            app.task(name="t", unique=rule)(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="unique_for is -1"):
        app.task(name="t", unique=True, unique_for=-1)(lambda: None)
    with pytest.raises(InvalidArguments, match="unique_key is empty"):
        app.task(name="u")(lambda: None).apply_async(unique_key="")


def test_without_a_store_a_unique_call_is_refused() -> None:
    with CloudQ("none", broker="memory://no-store-unique", backend="none") as app:
        task = app.task(name="t", unique=True)(lambda: None)
        with pytest.raises(ConfigurationError, match="unique calls are claimed"):
            task.delay()
        plain = app.task(name="u")(lambda: None)
        with pytest.raises(ConfigurationError, match="unique calls are claimed"):
            plain.apply_async(unique_key="k")
        assert task.apply().get() is None
        keyed = app.task(name="v", concurrency="k")(lambda: None)
        with pytest.raises(ConfigurationError, match=r"v: concurrency .* CLOUDQ_BACKEND"):
            group(keyed.si(), keyed.si()).delay()


def test_a_redelivery_of_what_has_ended_frees_the_key(app: Bench, unique: Any) -> None:
    first = unique.delay(1)
    delivery = app.one()
    settlement = app.settle(delivery)
    assert settlement.record is not None
    app.results.store([settlement.record])  # and the process died before it freed the key
    app.clock.ahead += 61
    again = app.step()
    assert (again.action, again.reason) == (Action.ACK, "already done")
    app.store.calls.clear()
    assert unique.delay(1) != first
    assert "get" not in app.store.calls


def test_one_that_ends_while_its_publisher_is_slow_leaves_no_key(app: Bench) -> None:
    @app.task(name="t", unique="k", ignore_result=True)
    def task() -> None: ...

    original = app.store.update
    calls: list[int] = []

    def slow(key: Any, change: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # it is sent, and not confirmed
            app.work()
        return original(key, change)

    app.store.update = slow  # type: ignore[method-assign]
    first = task.delay()
    assert app.left() == 0
    assert task.delay() != first


def test_a_call_with_callbacks_holds_its_key(app: Bench, unique: Any) -> None:
    told: list[int] = []

    @app.task(name="tell")
    def tell(value: int) -> None:
        told.append(value)

    first = unique.apply_async([1, 5], link=tell.s())
    assert unique.delay(1, 6) == first
    for again in (
        lambda: unique.apply_async([1], link=tell.s()),
        lambda: unique.apply_async([1], link_error=tell.si(0)),
        lambda: unique.s(1).set(link=tell.s()).delay(),
    ):
        with pytest.raises(ConfigurationError, match=f"t: the equal call {first.id} is queued"):
            again()
    assert len(app.sent()) == 1
    other = unique.apply_async([2, 7], link=tell.s())
    app.work()
    assert (first.get(timeout=0), other.get(timeout=0), told) == (5, 7, [5, 7])
    assert unique.apply_async([1, 8], link=tell.s()) != first
    app.work()
    assert told == [5, 7, 8]


def test_callbacks_are_not_added_to_a_call_that_waits(app: Bench, unique: Any) -> None:
    first = unique.delay(1, 5)
    with pytest.raises(ConfigurationError, match="without link and link_error"):
        unique.apply_async([1], link=unique.si(2))
    app.work()
    assert first.get(timeout=0) == 5
    assert app.sent() == []


def test_a_call_with_callbacks_that_the_broker_does_not_take_frees_its_key(
    app: Bench, unique: Any
) -> None:
    app.wire.down.add("send")
    with pytest.raises(BrokerError):
        unique.apply_async([1], link=unique.si(2))
    app.wire.down.clear()
    result = unique.apply_async([1, 4], link=unique.si(2))
    app.work()
    assert result.get(timeout=0) == 4


def test_the_arguments_of_a_call_with_callbacks_make_the_same_key(app: Bench) -> None:
    @app.task(name="pay", unique=True)
    def pay(order: Order, amount: int = 1) -> int:
        return amount

    first = pay.delay(Order(id=1))
    with pytest.raises(ConfigurationError, match=first.id):
        pay.apply_async((), {"amount": 1, "order": {"id": 1}}, link=pay.si(Order(id=2)))
