"""Calls in bundles, each with what a call by itself has: limits, retries, marks, its own end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import AsyncResult, CloudQ, Reject, State, Task, chord, group
from cloudq.driver import Outgoing
from cloudq.driver.log import Log
from cloudq.execution import bundles
from cloudq.execution.bundles import LONGEST_HOLD
from cloudq.execution.commit import commit, dispose
from cloudq.execution.consume import Consumer
from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.testing import drain
from tests.support.bench import Bench


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("bundled", broker="memory://bundled-calls", default_retry_delay=0.0) as app:
        yield app


def published(app: CloudQ, task: Task[..., Any], count: int) -> list[AsyncResult[Any]]:
    results = app.publish([task.prepare(n) for n in range(count)], bundle=count)
    ready = app.broker.admin.stats("default").ready
    assert ready == 1, "one message"
    return results


def test_revoked_ones_do_not_run_and_their_neighbours_do(app: CloudQ) -> None:
    ran: list[int] = []

    @app.task
    def work(n: int) -> None:
        ran.append(n)

    results = published(app, work, 5)
    results[1].revoke()
    results[3].revoke()
    drain(app)
    assert ran == [0, 2, 4]
    states = [result.state for result in results]
    assert states == [State.SUCCESS, State.REVOKED] * 2 + [State.SUCCESS]


def test_one_that_is_revoked_as_its_bundle_runs_does_not_start(bench: Bench) -> None:
    """Each write of ends tells what was revoked meanwhile."""
    ran: list[int] = []

    @bench.task(name="t")
    def work(n: int) -> int:
        ran.append(n)
        if n == 1:
            bench.results.revoke(results[3].id)
            monotonic.append(LONGEST_HOLD)
        return n

    monotonic = [0.0]
    results = bench.publish([work.prepare(n) for n in range(5)], bundle=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles.time, "monotonic", lambda: sum(monotonic))
        Consumer(bench.runner, log=Log("test")).consume([bench.one()])
    assert ran == [0, 1, 2, 4]
    assert bench.state(results[3]) is State.REVOKED


def test_ends_of_one_bundle_are_written_together(bench: Bench) -> None:
    @bench.task
    def work(n: int) -> int:
        return n

    results = bench.publish([work.prepare(n) for n in range(5)], bundle=5)
    delivery = bench.one()
    before = sum(bench.store.calls.values())
    Consumer(bench.runner, log=Log("test")).consume([delivery])
    assert sum(bench.store.calls.values()) == before + 2, (
        "it looks for what was revoked, and writes"
    )
    assert [bench.state(result) for result in results] == [State.SUCCESS] * 5


def test_one_that_is_revoked_as_it_waits_for_its_retry_ends_revoked(app: CloudQ) -> None:
    @app.task(bind=True)
    def work(self: Task[..., Any], n: int) -> int:
        if n == 1:
            raise self.retry(countdown=0.3)
        return n

    results = published(app, work, 3)
    drain(app)
    results[1].revoke()
    work_off(app, results)
    assert [result.state for result in results] == [State.SUCCESS, State.REVOKED, State.SUCCESS]


def work_off(app: CloudQ, results: list[AsyncResult[Any]]) -> None:
    for _ in range(200):
        drain(app)
        if all(result.ready() for result in results):
            return
        app.broker.receive("nobody", count=1, wait=0.05, lease=1)
    raise AssertionError([result.state for result in results])


def test_expired_ones_end_so(app: CloudQ) -> None:
    @app.task
    def work(n: int) -> int:
        return n

    calls = [work.options(expires=60 if n else 0.001).prepare(n) for n in range(3)]
    results = app.publish(calls, bundle=3)
    app.broker.receive("nobody", count=1, wait=0.05, lease=1)
    drain(app)
    assert [result.state for result in results] == [State.REVOKED, State.SUCCESS, State.SUCCESS]


def test_a_retry_counts_and_keeps_its_id(app: CloudQ) -> None:
    @app.task(bind=True, max_retries=2)
    def work(self: Task[..., Any], n: int) -> int:
        if self.request.retries < n:
            raise self.retry()
        return self.request.retries

    results = published(app, work, 4)
    drain(app)
    assert [result.state for result in results] == [State.SUCCESS] * 3 + [State.FAILURE]
    assert [result.get(timeout=1) for result in results[:3]] == [0, 1, 2]


def test_one_that_is_replaced_ends_with_what_it_is_replaced_by(app: CloudQ) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(bind=True)
    def work(self: Task[..., Any], n: int) -> int:
        if n == 1:
            raise self.replace(add.s(n, 10))
        if n == 2:
            raise self.replace(group(add.s(n, 1), add.s(n, 2)))
        return n

    results = published(app, work, 3)
    drain(app)
    assert [result.get(timeout=1) for result in results] == [0, 11, [3, 4]]


def test_progress_is_read_by_the_id_alone(app: CloudQ) -> None:
    seen: list[Any] = []

    @app.task(bind=True)
    def work(self: Task[..., Any], n: int) -> int:
        self.update_state(state="PROGRESS", meta={"done": n})
        seen.append((results[n].state, results[n].info))
        return n

    results = published(app, work, 2)
    drain(app)
    assert seen == [("PROGRESS", {"done": 0}), ("PROGRESS", {"done": 1})]
    assert [result.state for result in results] == [State.SUCCESS] * 2


def test_idempotent_ones_run_once_each_key(app: CloudQ) -> None:
    ran: list[int] = []

    @app.task(idempotent=True)
    def work(n: int) -> int:
        ran.append(n)
        return n * 2

    results = app.publish([work.prepare(n % 2) for n in range(6)], bundle=6)
    work_off(app, results)
    assert sorted(ran) == [0, 1]
    assert [result.get(timeout=1) for result in results] == [0, 2, 0, 2, 0, 2]


def test_an_idempotent_one_that_was_interrupted_goes_on_in_its_copy(app: CloudQ) -> None:
    """Its claim is kept meanwhile, and is known to be its own."""
    ran: list[int] = []

    @app.task(idempotent=True)
    def work(n: int) -> int:
        ran.append(n)
        if n == 1 and ran.count(1) == 1:
            raise Reject("busy", requeue=True)
        return n

    results = published(app, work, 3)
    work_off(app, results)
    assert [result.get(timeout=1) for result in results] == [0, 1, 2]
    assert ran == [0, 1, 2, 1]


def test_unique_ones_are_sent_once(app: CloudQ) -> None:
    @app.task(unique=True)
    def work(n: int) -> int:
        return n

    results = app.publish([work.prepare(n % 2) for n in range(6)], bundle=6)
    assert len({result.id for result in results}) == 2
    drain(app)
    assert [result.get(timeout=1) for result in results] == [0, 1, 0, 1, 0, 1]
    again = app.publish([work.prepare(0)], bundle=6)
    drain(app)
    assert again[0].get(timeout=1) == 0


def test_limits_put_off_those_alone_that_are_over_them(app: CloudQ) -> None:
    @app.task(rate_limit="2/s")
    def work(n: int) -> int:
        return n

    results = published(app, work, 4)
    drain(app)
    ended = [result for result in results if result.state is State.SUCCESS]
    assert 1 <= len(ended) < 4
    work_off(app, results)
    assert [result.get(timeout=1) for result in results] == [0, 1, 2, 3]


def test_a_dead_letter_of_one_is_retried_alone(app: CloudQ) -> None:
    poison = {1}

    @app.task
    def work(n: int) -> int:
        if n in poison:
            raise Reject("poison", requeue=False)
        return n

    results = published(app, work, 3)
    drain(app)
    assert [r.state for r in results] == [State.SUCCESS, State.REJECTED, State.SUCCESS]
    [dead] = app.broker.admin.peek_dead("default", count=10)
    assert results[1].id.encode() in dead.body
    assert dead.id == results[1].id
    poison.clear()
    app.broker.admin.redrive("default", [dead])
    drain(app)
    app.backend.bundles.seen.forget()  # type: ignore[union-attr]
    assert [app.AsyncResult(result.id).get(timeout=1) for result in results] == [0, 1, 2]


def test_one_that_is_dead_lettered_is_not_opened_again_by_who_stood_still(bench: Bench) -> None:
    @bench.task(name="t")
    def work(n: int) -> int:
        if n == 1:
            raise Reject("poison", requeue=False)
        return n

    bench.clock.stand_still(1_800_000_000.0)  # it ends in the millisecond in which it was sent
    results = bench.publish([work.prepare(n) for n in range(3)], bundle=3)
    mine = bench.one()
    assert not bench.memory.release([mine], after=0.0)
    consumer = Consumer(bench.runner, log=Log("test"))
    consumer.consume([bench.one()])
    before = [bench.record(result) for result in results]
    assert [record.state for record in before] == [State.SUCCESS, State.REJECTED, State.SUCCESS]
    bench.results.bundles.seen.forget()
    consumer.consume([mine])
    bench.results.bundles.seen.forget()
    assert [bench.record(result) for result in results] == before


def test_a_chord_s_members_in_bundles_join_once(app: CloudQ) -> None:
    bodies: list[int] = []

    @app.task(bundle=4, bind=True, max_retries=1)
    def member(self: Task[..., Any], n: int) -> int:
        if n == 3 and not self.request.retries:
            raise self.retry()
        return n

    @app.task
    def body(values: list[int]) -> int:
        bodies.append(1)
        return sum(values)

    result = chord([member.s(n) for n in range(10)])(body.s())
    drain(app)
    assert result.get(timeout=1) == 45
    assert bodies == [1]


def test_an_unknown_task_is_dead_lettered_alone(app: CloudQ) -> None:
    @app.task
    def work(n: int) -> int:
        return n

    @app.task(name="gone")
    def gone(n: int) -> int:
        return n

    results = app.publish([work.prepare(0), gone.prepare(1), work.prepare(2)], bundle=3)
    app.tasks.pop("gone")  # type: ignore[attr-defined]
    drain(app)
    assert [r.state for r in results] == [State.SUCCESS, State.FAILURE, State.SUCCESS]
    [dead] = app.broker.admin.peek_dead("default", count=10)
    assert "unknown task 'gone'" in (dead.reason or "")


def test_an_eager_app_runs_each(app: CloudQ) -> None:
    with CloudQ("eager", broker="memory://bundled-calls", task_always_eager=True) as eager:

        @eager.task(bundle=3)
        def work(n: int) -> int:
            return n

        results = eager.publish([work.prepare(n) for n in range(3)], bundle=3)
        assert [result.get() for result in results] == [0, 1, 2]


def test_a_poisoned_one_dies_alone(bench: Bench) -> None:
    """Each delivery of its bundle ends its process, until it comes by itself."""
    ran: list[int] = []

    @bench.task(name="t")
    def work(n: int) -> int:
        ran.append(n)
        return n

    results = bench.publish([work.prepare(n) for n in range(3)], bundle=3)
    for _ in range(2):
        [delivery] = bench.broker.receive("default", count=1, wait=0.0, lease=5.0)
        jobs, _settled = bench.runner.open([delivery])
        assert len(jobs) == 3  # and the process dies
        bench.clock.ahead += 6
    for _ in range(100):
        for delivery in bench.broker.receive("default", count=1, wait=0.0, lease=5.0):
            jobs, settled = bench.runner.open([delivery])
            if jobs and jobs[0].message.args == [1]:
                break  # it ends its process again
            done = [(job.delivery, bench.runner.run(job)) for job in jobs]
            batch = commit([*settled, *done], bench.broker, bench.backend)
            assert dispose(batch.ready, bench.broker) == []
        bench.clock.ahead += 6
    states = [bench.results.record(result.id) for result in results]
    assert [record and record.state for record in states] == [
        State.SUCCESS,
        State.FAILURE,
        State.SUCCESS,
    ]


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = Bench(default_retry_delay=0.0)
    yield app
    app.close()


@pytest.mark.parametrize("levels", [254, 700])
def test_one_that_nests_too_deep_fails_alone(app: CloudQ, levels: int) -> None:
    @app.task(name="t")
    def work(n: int) -> int:
        return n

    bundle = new_bundle()
    body = (
        f'{{"v":3,"id":"{bundle}","all":{{"task":"t","queue":"default"}},"calls":['
        f'{{"n":0,"args":{"[" * levels}{"]" * levels}}},{{"n":1,"args":[7]}}]}}'
    )
    app.broker.driver.send("default", [Outgoing(id="x", body=body.encode())])
    drain(app)
    deep, beside = (app.AsyncResult(bundled_id(bundle, number)) for number in range(2))
    assert beside.get(timeout=1) == 7
    assert deep.state == State.FAILURE
    [dead] = app.broker.admin.peek_dead("default", count=10)
    assert "nest deeper" in (dead.reason or "")
