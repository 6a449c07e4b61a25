"""Rates: of one worker, of all together, and what comes of those who are over them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError
from cloudq.driver import Limits
from cloudq.errors import UnknownTask
from cloudq.execution.commit import commit, dispose
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Action
from cloudq.tasks.limits.global_rate import GlobalRates
from cloudq.tasks.limits.rules import Rate, rate_of
from cloudq.tasks.limits.worker_rate import FARTHEST, WorkerRates
from tests.support.bench import Bench


def rated(app: Bench, **options: Any) -> tuple[Any, list[float]]:
    runs: list[float] = []

    @app.task(name="t", **options)
    def task(n: int = 0) -> int:
        runs.append(app.clock())
        return n

    return task, runs


def turn(app: Bench, runner: Executor | None = None) -> int:
    """A worker takes all that can be received now; how many it ran."""
    runner = runner or app.runner
    ran = 0
    while deliveries := app.receive(10):
        jobs, settled = runner.open(deliveries)
        for job in jobs:
            settlement = runner.run(job)
            settled.append((job.delivery, settlement))
            ran += settlement.state is not None
        result = commit(settled, app.broker, app.backend)
        assert not result.failed
        assert dispose(result.ready, app.broker) == []
    return ran


@pytest.mark.parametrize(
    ("given", "every"),
    [("10/s", 0.1), ("100/m", 0.6), ("6/h", 600.0), ("1/d", 86_400.0), (4, 0.25), ("0.5", 2.0)],
)
def test_a_rate_is_read_as_in_celery(given: object, every: float) -> None:
    rate = rate_of(given)
    assert rate is not None
    assert rate.every == pytest.approx(every)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("given", [None, 0, "0/s", 0.0])
def test_nothing_and_zero_are_no_limit(given: object) -> None:
    assert rate_of(given) is None


@pytest.mark.parametrize("given", ["often", "10/w", "-1/s", -3, "10/s/s", True, "", float("nan")])
def test_what_is_no_rate_is_refused_with_what_one_is(app: Bench, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'task t: rate_limit is .*like "10/s"'):
        rated(app, rate_limit=given)


def test_a_rate_says_itself() -> None:
    assert [str(rate_of(text)) for text in ("10/s", "2.5/m")] == ["10/s", "2.5/m"]


def test_a_worker_starts_a_task_as_often_as_its_rate_says(app: Bench) -> None:
    task, runs = rated(app, rate_limit="1/s")
    results = [task.delay(n) for n in range(20)]
    # Its own clock of the worker is the test's.
    app.runner._gate._worker_rates._clock = app.clock  # pyright: ignore[reportPrivateUsage]
    for _ in range(45):
        turn(app)
        app.clock.ahead += 1.0
    assert len(runs) == 20
    start = runs[0]
    for second in range(20):
        in_window = sum(start + second <= at < start + second + 5 for at in runs)
        # Five, one more for the bucket, one more for services that deliver a second early.
        assert in_window <= 7
    assert sorted(result.get(timeout=0) for result in results) == list(range(20))


def test_waiting_costs_about_one_more_message_each(app: Bench) -> None:
    task, runs = rated(app, rate_limit="2/s")
    app.runner._gate._worker_rates._clock = app.clock  # pyright: ignore[reportPrivateUsage]
    app.publish(task.prepare(n) for n in range(50))
    app.wire.calls.clear()
    waits = 0
    for _ in range(60):
        for message in app.sent():
            waits = max(waits, message.get("waits", 0))
        turn(app)
        app.clock.ahead += 0.5
    assert len(runs) == 50
    assert waits <= 3
    assert "update" not in app.store.calls


def test_waiting_is_no_failure_and_no_death(app: Bench) -> None:
    app.configure_deliveries(2)
    task, runs = rated(app, rate_limit="1/h")
    first, second = task.delay(), task.delay()
    app.step()
    for _ in range(30):
        delivery = app.one()
        settlement = app.finish(delivery, app.settle(delivery))
        assert (settlement.action, settlement.state) == (Action.ACK, None)
        assert delivery.attempts == 1
        app.clock.ahead += FARTHEST + 2
    assert (first.ready(), second.ready(), app.dead(), len(runs)) == (True, False, [], 1)


def test_a_wait_is_never_hot_and_never_holds_a_lease(app: Bench) -> None:
    task, _ = rated(app, rate_limit="1/m")
    app.publish(task.prepare(n) for n in range(5))
    turn(app)
    stats = app.memory.stats("default")
    assert (stats.ready, stats.leased, stats.delayed) == (0, 0, 4)


def test_other_tasks_pass_by_those_that_wait(app: Bench) -> None:
    task, runs = rated(app, rate_limit="1/h")
    done: list[int] = []
    other = app.task(name="other")(lambda: done.append(1))
    for _ in range(3):
        task.delay()
        other.delay()
    turn(app)
    assert (len(runs), len(done)) == (1, 3)


def test_an_expired_call_does_not_wait_on(app: Bench) -> None:
    task, runs = rated(app, rate_limit="1/h")
    task.delay()
    late = task.apply_async(expires=60)
    turn(app)
    app.clock.ahead += FARTHEST + 2
    turn(app)
    assert (late.state, len(runs)) == ("REVOKED", 1)


def test_a_revoked_call_stops_waiting(app: Bench) -> None:
    task, runs = rated(app, rate_limit="1/h")
    task.delay()
    revoked = task.delay()
    turn(app)
    assert revoked.revoke()
    app.clock.ahead += FARTHEST + 2
    turn(app)
    assert (revoked.state, len(runs), app.left()) == ("REVOKED", 1, 0)


def test_a_worker_can_be_given_another_rate(app: Bench) -> None:
    task, runs = rated(app, rate_limit="1/h")
    app.publish(task.prepare(n) for n in range(10))
    assert turn(app) == 1
    assert str(app.runner.task_limits("t")[0]) == "1/h"
    assert app.runner.change_rate_limit("t", 0) is None
    app.clock.ahead += FARTHEST + 2
    turn(app)
    assert len(runs) == 10
    assert str(app.runner.change_rate_limit("t", "1/m")) == "1/m"
    app.publish(task.prepare(n) for n in range(10))
    assert turn(app) == 1
    with pytest.raises(UnknownTask, match="no task 'u'"):
        app.runner.change_rate_limit("u", "1/m")
    with pytest.raises(ConfigurationError, match="rate_limit is 'fast'"):
        app.runner.change_rate_limit("t", "fast")


def test_the_eager_task_waits_for_nothing(app: Bench) -> None:
    task, runs = rated(app, rate_limit="1/h", global_rate_limit="1/h", concurrency=1)
    assert [task.apply([n]).get() for n in range(3)] == [0, 1, 2]
    assert len(runs) == 3


# ---- global


def test_all_workers_together_keep_a_global_rate(app: Bench) -> None:
    task, runs = rated(app, global_rate_limit="60/m")
    app.publish(task.prepare(n) for n in range(30))
    workers = [app.executor(hostname=name) for name in ("a", "b", "c")]
    for step in range(80):
        turn(app, workers[step % 3])
        app.clock.ahead += 0.5
    assert len(runs) == 30
    for start in runs:
        assert sum(start <= at < start + 5 for at in runs) <= 7


def test_a_call_asks_the_store_once_however_long_it_waits(app: Bench) -> None:
    task, runs = rated(app, global_rate_limit="60/m")
    app.publish(task.prepare(n) for n in range(30))
    turn(app)  # one runs, 29 know their turn
    assert len(runs) == 1
    # The first needs a look to see that there is no bucket yet.
    assert app.store.calls["update"] <= 31
    app.store.calls.clear()
    for _ in range(40):
        app.clock.ahead += 1.0
        turn(app)
    assert len(runs) == 30
    assert "update" not in app.store.calls


def test_turns_that_were_missed_are_not_all_taken_at_once(app: Bench) -> None:
    task, runs = rated(app, global_rate_limit="60/m")
    app.publish(task.prepare(n) for n in range(30))
    turn(app)
    app.clock.ahead += 600  # every worker was down
    assert turn(app) <= 2
    for _ in range(60):
        app.clock.ahead += 1.0
        turn(app)
    assert len(runs) == 30


def test_those_too_far_off_look_again_without_a_turn(app: Bench) -> None:
    task, runs = rated(app, global_rate_limit="6/h")
    app.publish(task.prepare(n) for n in range(6))
    turn(app)
    sent = app.sent()
    assert [message["waits"] for message in sent] == [1] * 5
    assert sum("turn" in message for message in sent) == 1
    for _ in range(60):
        app.clock.ahead += 100
        turn(app)
    assert len(runs) == 6


def test_with_the_store_down_a_global_rate_makes_wait(app: Bench) -> None:
    task, runs = rated(app, global_rate_limit="60/m")
    result = task.delay()
    delivery = app.one()
    job = app.job(delivery)
    app.store.down.add("update")
    settlement = app.runner.run(job)
    assert "the store is down" in settlement.reason
    app.finish(delivery, settlement)
    app.store.down.clear()
    app.work()
    assert (len(runs), result.get(timeout=0)) == (1, 0)


def test_without_a_store_a_global_rate_is_refused_and_not_ignored() -> None:
    app = CloudQ("none", broker="memory://no-store-rate", backend="none")

    @app.task(name="t", global_rate_limit="1/s")
    def task() -> None: ...

    with pytest.raises(ConfigurationError, match=r"t: .*global_rate_limit.*result backend"):
        task.delay()
    app.close()


def test_a_call_that_waits_on_a_queue_with_order_keeps_its_place(app: Bench) -> None:
    task, _ = rated(app, rate_limit="1/h")
    task.delay()
    task.apply_async([1], group_key="g")
    app.step()
    settlement = app.step()
    assert settlement.action is Action.RELEASE
    assert 0 < settlement.after <= FARTHEST


def test_a_call_that_waits_is_parked_where_nothing_else_can_delay_it(app: Bench) -> None:
    def no_delay(limits: Limits) -> Limits:
        return replace(limits, max_delay=0.0, ordered=False)

    app.wire.change_limits = no_delay
    task, runs = rated(app, global_rate_limit="1/m")
    app.publish(task.prepare(n) for n in range(2))
    turn(app)
    assert (len(runs), app.left()) == (1, 0)
    app.clock.ahead += 61
    app.broker.send_delayed("default")
    turn(app)
    assert len(runs) == 2


def test_a_bucket_gives_each_token_once_whoever_asks(app: Bench) -> None:
    rate = Rate(count=10, seconds=1)
    buckets = [GlobalRates() for _ in range(3)]
    turns = [buckets[n % 3].take(app.results, "t", rate) for n in range(40)]
    now = app.clock()
    later = sorted(at for at in turns if at is not None and at > now + 0.2)
    assert len(later) >= 25
    gaps = [after - before for before, after in pairwise(later)]
    assert min(gaps) == pytest.approx(0.1, abs=0.01)  # pyright: ignore[reportUnknownMemberType]


def test_the_spread_of_a_worker_ends_at_the_farthest() -> None:
    paces = WorkerRates(lambda: 1000.0)
    rate = Rate(count=1, seconds=60)
    waits = [paces.wait("t", rate) for _ in range(100)]
    assert waits[0] == 0.0
    assert waits[1:16] == [60.0 * n for n in range(1, 16)]
    assert all(FARTHEST / 2 <= wait <= FARTHEST for wait in waits[16:])


def test_a_retry_has_no_turn_left_and_has_not_waited(app: Bench) -> None:
    tries: list[float] = []

    @app.task(name="t", global_rate_limit="1/m", autoretry_for=[OSError], max_retries=1)
    def task() -> None:
        tries.append(app.clock())
        raise OSError

    app.publish(task.prepare() for _ in range(2))
    for _ in range(300):
        turn(app)
        app.clock.ahead += 1.0
    assert len(tries) == 4
    assert all(after - before >= 58.9 for before, after in pairwise(tries))
