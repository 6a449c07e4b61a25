"""Delays of any length on every broker: in hops where the service's own are shorter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudq import InvalidArguments, State
from cloudq.broker.sending import LONGEST_HOP
from cloudq.driver import Limits
from cloudq.execution.commit import commit
from tests.support.bench import Bench

DAY = 86_400.0


def hopping(limits: Limits) -> Limits:
    """As SQS: a delay of 15 minutes at most."""
    return replace(limits, max_delay=900.0, batch=10, ordered=False)


def delayed_store(limits: Limits) -> Limits:
    return replace(limits, max_delay=0.0, batch=10, ordered=False)


@pytest.fixture
def task(app: Bench) -> Any:
    runs: list[float] = []

    @app.task(name="t")
    def task() -> float:
        runs.append(app.clock())
        return runs[-1]

    task.runs = runs  # type: ignore[attr-defined]
    return task


def wait(app: Bench, until: Callable[[], object], *, tick: float, most: int) -> int:
    """A worker that is always there, and time that passes; how many messages it had."""
    hops = 0
    for _ in range(most):
        if until():
            return hops
        app.broker.send_delayed("default")
        while deliveries := app.receive(1):
            hops += 1
            app.finish(deliveries[0], app.settle(deliveries[0]))
        app.clock.ahead += tick
    raise AssertionError(f"not after {hops} hops")


def waiting(app: Bench) -> bool:
    return app.broker.stores_delayed("default") and bool(app.broker.scheduled("default", count=1))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [899.0, 901.0, 1800.5, 7200.0])
def test_a_delay_ends_to_the_second_after_hops(app: Bench, task: Any, delay: float) -> None:
    app.wire.change_limits = hopping
    due = app.clock() + delay
    result = task.apply_async(countdown=delay)
    hops = wait(app, result.ready, tick=0.5, most=20_000)
    assert hops <= delay // 900 + 2
    # One second early, as services round; half a second for the steps of this clock.
    assert due - 1.01 <= result.get(timeout=0) <= due + 0.6


def test_a_hop_costs_a_receive_a_send_and_an_ack_and_one_read(app: Bench, task: Any) -> None:
    app.wire.change_limits = hopping
    app.publish(task.options(countdown=5000).prepare() for _ in range(10))
    app.clock.ahead += 901
    app.wire.calls.clear()
    app.store.calls.clear()
    deliveries = app.receive(10)
    _, settled = app.runner.open(deliveries)
    assert len(settled) == 10
    result = commit(settled, app.broker, app.backend)
    app.broker.ack([delivery for delivery, _ in result.ready])
    assert app.wire.calls == {"receive": 1, "send": 1, "ack": 1}
    assert app.store.calls == {"get": 1}


def test_a_revoked_call_ends_at_its_next_hop(app: Bench, task: Any) -> None:
    app.wire.change_limits = hopping
    result = task.apply_async(countdown=10 * DAY)
    app.clock.ahead += 901
    app.step()
    assert result.revoke()
    app.clock.ahead += 901
    app.step()
    assert (result.state, app.left()) == (State.REVOKED, 0)


@pytest.mark.parametrize("limits", [hopping, delayed_store, lambda limits: limits])
def test_a_revocation_outlives_every_delay(app: Bench, task: Any, limits: Any) -> None:
    app.wire.change_limits = limits
    # A name of one's own: nothing is noted of where it waits.
    result = task.apply_async(countdown=80 * DAY, task_id="mine")
    assert result.revoke()
    app.clock.ahead += 27 * DAY
    assert app.record(result).revoked
    wait(app, lambda: app.left() == 0 and not waiting(app), tick=DAY, most=100)
    assert task.runs == []


@pytest.mark.parametrize("limits", [delayed_store, lambda limits: limits])
def test_no_wait_is_longer_than_a_hop(app: Bench, task: Any, limits: Any) -> None:
    app.wire.change_limits = limits
    due = app.clock() + 100 * DAY
    result = task.apply_async(countdown=100 * DAY)
    hops = wait(app, result.ready, tick=DAY / 2, most=300)
    assert hops == 100 * DAY // LONGEST_HOP + 1
    assert result.get(timeout=0) >= due - 1.01


def test_killed_between_the_send_and_the_ack_of_a_hop_nothing_is_lost(
    app: Bench, task: Any
) -> None:
    app.wire.change_limits = hopping
    result = task.apply_async(countdown=2000)
    app.clock.ahead += 901
    delivery = app.one()
    settlement = app.settle(delivery)
    commit([(delivery, settlement)], app.broker, app.backend)  # the copy is out
    wait(app, lambda: app.left() == 0, tick=20.0, most=200)
    assert (result.ready(), len(task.runs)) == (True, 1)


def test_killed_before_the_send_of_a_hop_it_is_delivered_again(app: Bench, task: Any) -> None:
    app.wire.change_limits = hopping
    result = task.apply_async(countdown=2000)
    app.clock.ahead += 901
    app.settle(app.one())
    wait(app, result.ready, tick=20.0, most=200)


def test_hops_are_no_deaths(app: Bench, task: Any) -> None:
    app.configure_deliveries(1)
    app.wire.change_limits = hopping
    result = task.apply_async(countdown=900 * 30)
    wait(app, result.ready, tick=300.0, most=200)
    assert result.state is State.SUCCESS


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"countdown": 20 * 365 * DAY}, r"countdown is 6\.3072e\+08 s: a call can wait for ten"),
        (
            {"eta": datetime.now(UTC) + timedelta(days=20_000)},
            r"eta is 2\d\d\d-.*: a call can wait",
        ),
    ],
)
def test_delays_of_decades_are_refused(app: Bench, task: Any, options: Any, says: str) -> None:
    with pytest.raises(InvalidArguments, match=says):
        task.apply_async(**options)
    assert app.sent() == []
