"""Batches and bundles of calls: few messages, and refusals that are named."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from cloudq import ConfigurationError, PublishError, Task, TaskRevoked, chord, group
from cloudq.driver import Code, Limits
from cloudq.messages.bundle import Bundle
from cloudq.messages.ids import place_of
from cloudq.messages.message import TaskMessage
from cloudq.testing import drain
from tests.support.bench import Bench


@pytest.fixture
def task(app: Bench) -> Any:
    @app.task(name="t")
    def task(a: object = None) -> object:
        return a

    return task


def bodies(app: Bench, queue: str = "default") -> list[list[str]]:
    """The ids of the calls in each message that waits."""
    found: list[list[str]] = []
    for peeked in app.memory.peek(queue, count=10_000):
        read = app.runtime.codec.read(peeked.body, queue=queue, limit=1 << 24)
        calls = read.calls if isinstance(read, Bundle) else [read]
        found.append([call.id for call in calls if isinstance(call, TaskMessage)])
    return found


def sizes(app: Bench, queue: str = "default") -> list[int]:
    return [len(ids) for ids in bodies(app, queue)]


# ---- batches


def test_the_calls_of_a_block_are_sent_at_its_end(app: Bench, task: Any) -> None:
    app.wire.change_limits = lambda limits: replace(limits, batch=10)
    with app.batch():
        results = [task.delay(number) for number in range(25)]
        assert not app.wire.calls
    assert app.wire.calls["send"] == 3
    assert [ids for [ids] in bodies(app)] == [result.id for result in results]
    drain(app)
    assert [result.get(timeout=0) for result in results] == list(range(25))


def test_a_batch_that_is_full_is_sent_at_once(app: Bench, task: Any) -> None:
    with app.batch():
        for number in range(1000):
            task.delay(number)
        assert len(bodies(app)) == 1000
        task.delay(1000)
        assert len(bodies(app)) == 1000
    assert len(bodies(app)) == 1001


def test_waiting_before_the_end_says_so(app: Bench, task: Any) -> None:
    with app.batch():
        result = task.delay(1)
        with pytest.raises(ConfigurationError, match="sent at the end of its batch"):
            result.get()


def test_refused_calls_are_named_and_the_others_sent(app: Bench, task: Any) -> None:
    app.wire.refuse = lambda message: Code.INVALID if b'"bad"' in message.body else None
    with pytest.raises(PublishError, match="2 of 4 calls not sent") as caught, app.batch():
        results = [task.delay(each) for each in ("a", "bad", "b", "bad")]
    assert [rejected.index for rejected in caught.value.rejected] == [1, 3]
    assert [rejected.id for rejected in caught.value.rejected] == [results[1].id, results[3].id]
    drain(app)
    assert results[2].get(timeout=0) == "b"
    with pytest.raises(TaskRevoked, match="its batch says why"):
        results[1].get(timeout=0)


def test_a_call_that_can_never_be_sent_stops_no_other(app: Bench, task: Any) -> None:
    app.wire.change_limits = lambda limits: replace(limits, body=2000, batch_body=10_000)
    with pytest.raises(PublishError, match="1 of 3 calls not sent") as caught, app.batch():
        results = [task.delay(each) for each in ("a", "x" * 5000, "b")]
    assert [(each.index, each.code) for each in caught.value.rejected] == [(1, Code.TOO_LARGE)]
    drain(app)
    assert [results[0].get(timeout=0), results[2].get(timeout=0)] == ["a", "b"]


def raising(app: Bench, task: Any) -> None:
    with app.batch():
        task.delay(1)
        raise RuntimeError("stop")


def test_what_was_collected_is_sent_though_the_block_raises(app: Bench, task: Any) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        raising(app, task)
    assert sizes(app) == [1]


def test_an_outage_is_told_with_the_error_of_the_block(app: Bench, task: Any) -> None:
    app.wire.down = {"send"}
    app.broker._sleep = lambda seconds: None
    with pytest.raises(RuntimeError) as caught:
        raising(app, task)
    assert "1 of 1 call not sent" in caught.value.__notes__[0]


def test_wrong_arguments_are_refused_at_the_call(app: Bench, task: Any) -> None:
    with app.batch():
        with pytest.raises(TypeError):
            task.delay(1, 2, 3)
        task.delay(1)
    assert sizes(app) == [1]


def test_the_batch_of_one_thread_is_not_another_s(app: Bench, task: Any) -> None:
    with app.batch():
        other = threading.Thread(target=task.delay, args=[1])
        other.start()
        other.join()
        assert sizes(app) == [1]


def test_coroutines_share_the_batch_that_they_are_made_in(app: Bench, task: Any) -> None:
    async def many() -> None:
        with app.batch(bundle=5):
            await asyncio.gather(*(task.adelay(number) for number in range(10)))

    asyncio.run(many())
    assert sizes(app) == [5, 5]


def test_a_batch_inside_another_sends_its_own(app: Bench, task: Any) -> None:
    with app.batch():
        task.delay(1)
        with app.batch():
            task.delay(2)
        assert len(bodies(app)) == 1
    assert len(bodies(app)) == 2


def test_unique_calls_and_workflows_are_sent_at_once(app: Bench, task: Any) -> None:
    @app.task(name="u", unique=True)
    def once(a: int) -> int:
        return a

    with app.batch():
        first = once.delay(1)
        assert once.delay(1).id == first.id
        group(task.s(1), task.s(2)).delay()
        assert sizes(app) == [1, 1, 1]


def test_an_eager_app_runs_the_calls_of_a_batch_at_once(app: Bench, task: Any) -> None:
    app.conf.task_always_eager = True
    with app.batch(bundle=10):
        assert task.delay(7).get() == 7


# ---- bundles


def test_bundles_hold_as_many_as_they_are_told(app: Bench, task: Any) -> None:
    results = app.publish([task.prepare(number) for number in range(25)], bundle=10)
    assert sizes(app) == [10, 10, 5]
    assert [id for ids in bodies(app) for id in ids] == [result.id for result in results]
    drain(app)
    assert [result.get(timeout=0) for result in results] == list(range(25))


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", 10_001, True])
def test_a_size_that_is_none_is_refused(app: Bench, task: Any, size: Any) -> None:
    with pytest.raises(ConfigurationError, match="bundle"):
        app.publish([task.prepare(1)], bundle=size)
    with pytest.raises(ConfigurationError, match="bundle"):
        app.batch(bundle=size)
    with pytest.raises(ConfigurationError, match="bundle"):
        app.task(name="wrong", bundle=size)(lambda: None)


def test_calls_for_several_queues_go_in_a_bundle_each(app: Bench, task: Any) -> None:
    on = [task.options(queue=f"q{number % 2}").prepare(number) for number in range(10)]
    results = app.publish(on, bundle=5)
    assert sizes(app, "q0") == sizes(app, "q1") == [5]
    drain(app, ["q0", "q1"])
    assert [result.get(timeout=0) for result in results] == list(range(10))


def test_delayed_calls_go_alone(app: Bench, task: Any) -> None:
    app.wire.change_limits = lambda limits: replace(limits, max_delay=900.0)
    later = [task.options(countdown=5.0 + n).prepare(n) for n in range(3)]
    app.publish([task.prepare(1), task.prepare(2), *later], bundle=5)
    assert sorted(sizes(app)) == [1, 1, 1, 2]
    assert app.memory.stats("default").delayed == 3


def test_a_bundle_over_the_size_is_cut(app: Bench, task: Any) -> None:
    app.publish([task.prepare(f"{number:1000}") for number in range(200)], bundle=200)
    waiting = app.memory.peek("default", count=100)
    assert all(len(message.body) <= 65_536 for message in waiting)
    assert sum(sizes(app)) == 200
    assert len(waiting) == 4


def test_a_huge_argument_is_one_error_and_nothing_is_sent(app: Bench, task: Any) -> None:
    app.wire.change_limits = lambda limits: replace(limits, body=200_000, batch_body=200_000)
    calls = [task.prepare(1), task.prepare("x" * 1_000_000), task.prepare(2)]
    with pytest.raises(Exception, match="takes 200,000"):
        app.publish(calls, bundle=3)
    assert not app.wire.calls


def test_a_call_with_an_id_of_its_own_goes_alone(app: Bench, task: Any) -> None:
    named = task.options(task_id="mine").prepare(3)
    app.publish([task.prepare(1), named, task.prepare(2)], bundle=5)
    assert sorted(sizes(app)) == [1, 2]


def test_a_refused_bundle_names_its_calls(app: Bench, task: Any) -> None:
    app.wire.refuse = lambda message: Code.INVALID if b'"bad"' in message.body else None
    calls = [task.prepare(each) for each in ("a", "b", "bad", "c", "d", "e")]
    with pytest.raises(PublishError) as caught:
        app.publish(calls, bundle=2)
    assert [rejected.index for rejected in caught.value.rejected] == [2, 3]
    assert sizes(app) == [2, 2]


def test_the_task_s_own_size_holds_where_many_are_sent(app: Bench) -> None:
    @app.task(name="small", bundle=4)
    def small(a: int) -> int:
        return a

    small.delay(1)
    assert sizes(app) == [1]
    app.publish([small.prepare(number) for number in range(8)])
    assert sizes(app) == [1, 4, 4]
    app.publish([small.prepare(number) for number in range(8)], bundle=8)
    assert sizes(app) == [1, 4, 4, 8]
    group(small.s(number) for number in range(8)).delay()
    assert sizes(app) == [1, 4, 4, 8, 4, 4]
    group([small.s(number) for number in range(8)]).delay()
    assert sizes(app)[-2:] == [4, 4]
    small.chunks([(number,) for number in range(40)], 5).delay()
    assert sizes(app)[-2:] == [4, 4]
    drain(app)


def test_a_chord_of_bundled_members_ends(app: Bench, task: Any) -> None:
    @app.task(name="small", bundle=10)
    def small(a: int) -> int:
        return a

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    listed = chord([small.s(number) for number in range(25)], total.s()).delay()
    streamed = chord((small.s(number) for number in range(25)), total.s()).delay()
    drain(app)
    assert listed.get(timeout=0) == streamed.get(timeout=0) == 300


def test_a_bundle_costs_one_write_and_one_read_of_results(app: Bench, task: Any) -> None:
    results = app.publish([task.prepare(number) for number in range(100)], bundle=100)
    assert app.wire.calls["send"] == 1
    app.store.calls.clear()
    drain(app)
    assert app.store.calls == {"get": 1, "update": 1}
    app.store.calls.clear()
    assert [result.get(timeout=5) for result in results] == list(range(100))
    assert app.store.calls == {"get": 1}
    assert app.wire.calls["ack"] == 1


def test_one_call_that_fails_and_one_that_retries_keep_no_neighbour(app: Bench) -> None:
    @app.task(name="odd", bind=True, default_retry_delay=0.0, max_retries=3)
    def odd(self: Task[..., Any], number: int) -> int:
        if number == 3 and self.request.retries < 2:
            raise self.retry()
        if number == 5:
            raise ValueError(number)
        return number

    results = app.publish([odd.prepare(number) for number in range(8)], bundle=8)
    drain(app)
    ends = [result.get(timeout=0, propagate=False) for result in results]
    assert [end for end in ends if not isinstance(end, Exception)] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(ends[5], ValueError)
    assert not app.left()


def test_an_unknown_task_in_a_bundle_is_dead_lettered_alone(app: Bench, task: Any) -> None:
    @app.task(name="gone")
    def gone() -> None: ...

    results = app.publish([task.prepare(1), gone.prepare(), task.prepare(2)], bundle=3)
    del app.tasks["gone"]
    drain(app)
    assert [results[0].get(timeout=0), results[2].get(timeout=0)] == [1, 2]
    [dead] = app.dead()
    assert "unknown task 'gone'" in str(dead.reason)
    assert b'"task":"gone"' in dead.body
    assert not app.left()


def test_limits_of_a_broker_hold_for_bundles(app: Bench, task: Any) -> None:
    def few(limits: Limits) -> Limits:
        return replace(limits, batch=2, batch_body=3000, body=2000)

    app.wire.change_limits = few
    results = app.publish([task.prepare("x" * 100) for _ in range(30)], bundle=10)
    drain(app)
    assert all(result.get(timeout=0) == "x" * 100 for result in results)
    assert {place_of(result.id) is not None for result in results} == {True}


def test_many_calls_of_one_bundle_that_cannot_be_read_are_buried_together(
    app: Bench, task: Any
) -> None:
    @app.task(name="gone")
    def gone(number: int) -> None: ...

    calls = [task.prepare(1), *(gone.prepare(number) for number in range(50)), task.prepare(2)]
    results = app.publish(calls, bundle=100)
    del app.tasks["gone"]
    app.wire.calls.clear()
    drain(app)
    assert [results[0].get(timeout=0), results[-1].get(timeout=0)] == [1, 2]
    assert len({dead.id for dead in app.memory.peek_dead("default", count=100)}) == 50
    assert app.wire.calls["send"] == 1  # the copies; one each before
