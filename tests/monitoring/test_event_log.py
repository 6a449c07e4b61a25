"""Recorded events: what each level costs, what an event says, and how it is found again."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from cloudq import ConfigurationError, State
from cloudq.driver import Code
from cloudq.driver.log import Log
from cloudq.execution.commit import commit
from cloudq.execution.deadline import Deadline
from cloudq.execution.invocation import Invocation
from cloudq.monitoring.event_log import TRACKED, Reader
from cloudq.results.events import History
from cloudq.settings import Level
from tests.support.bench import Bench


def record(app: Bench, level: Level, *, arguments: bool = True) -> Reader:
    app.results.history = History(
        level, expires=1e6, arguments=arguments, max_body=app.conf.max_body
    )
    return Reader(app.results)


def define(app: Bench) -> None:
    @app.task(name="t.ok")
    def ok(number: int) -> int:
        return number

    @app.task(name="t.bad", max_retries=0)
    def bad(what: str) -> None:
        raise ValueError(what)

    @app.task(name="t.again", bind=True, max_retries=2)
    def again(self) -> int:
        if self.request.retries < 2:
            raise self.retry(exc=KeyError("not yet"))
        return self.request.retries


def batch(app: Bench, count: int) -> dict[str, int]:
    """Run `count` tasks, commit them together; the requests that it took."""
    for number in range(count):
        app.tasks["t.ok"].delay(number)
    deliveries = app.receive(count)
    pairs = [(delivery, app.settle(delivery)) for delivery in deliveries]
    app.store.calls.clear()
    done = commit(pairs, app.broker, app.backend, app.workflows.joins)
    assert len(done.ready) == count
    assert not done.failed
    app.broker.ack(deliveries)
    return dict(app.store.calls)


def test_no_level_costs_more_requests_than_none_for_a_batch(app: Bench) -> None:
    define(app)
    assert batch(app, 10) == {"put": 1}
    reader = record(app, Level.FINAL)
    assert batch(app, 10) == {"put": 1}
    assert len(reader.newest()) == 10


def test_an_ignored_result_leaves_an_event_all_the_same(app: Bench) -> None:
    @app.task(name="t.quiet", ignore_result=True)
    def quiet() -> None: ...

    reader = record(app, Level.FINAL)
    quiet.delay()
    app.work()
    [event] = reader.newest()
    assert (event.task, event.state, event.queue) == ("t.quiet", State.SUCCESS, "default")


def test_the_last_failures_of_a_task_are_one_query_whatever_else_there_is(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    for number in range(30):
        app.tasks["t.ok"].delay(number)
        app.tasks["t.bad"].delay(f"bad {number}")
    app.work()
    app.store.calls.clear()
    failures = reader.newest(names=["t.bad"], states=[State.FAILURE], limit=5)
    assert dict(app.store.calls) == {"query": 1}
    assert [event.error for event in failures] == [f"bad {n}" for n in range(29, 24, -1)]
    assert {event.error_type for event in failures} == {"ValueError"}
    assert all(event.took is not None and event.worker == "bench" for event in failures)
    assert [event.at for event in failures] == sorted((e.at for e in failures), reverse=True)
    # Tasks and states are merged by their times.
    everything = reader.newest(limit=60)
    assert len(everything) == 60
    assert [event.at for event in everything] == sorted((e.at for e in everything), reverse=True)
    middle = everything[30].at
    later = reader.newest(since=middle)
    assert {event.at >= middle for event in later} == {True}
    assert len(later) == sum(event.at >= middle for event in everything)
    assert reader.names() == ["t.bad", "t.ok"]


def test_more_than_a_page_is_found_and_no_more_than_asked(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    for number in range(130):
        app.tasks["t.ok"].delay(number)
    app.work()
    assert len(reader.newest(limit=120)) == 120
    assert len({event.id for event in reader.newest(limit=1000)}) == 130


def test_starts_and_retries_are_recorded_at_the_tracked_level_only(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    app.tasks["t.again"].delay()
    app.work()
    assert [e.state for e in reader.newest(states=TRACKED)] == [State.SUCCESS]
    reader = record(app, Level.TRACKED)
    result = app.tasks["t.again"].delay()
    app.work()
    trail = reader.trail(result.id)
    assert trail is not None
    assert trail.record.state is State.SUCCESS
    # The record knows the last start; each start is among the events of the task's name.
    assert [event.state for event in trail.events] == [
        State.RETRY,
        State.RETRY,
        State.STARTED,
        State.SUCCESS,
    ]
    starts = reader.newest(names=["t.again"], states=[State.STARTED])
    assert [event.retries for event in starts] == [2, 1, 0]
    retries = reader.newest(names=["t.again"], states=[State.RETRY])
    assert "not yet" in (retries[0].error or "")


def test_arguments_are_kept_shortened_or_not_at_all(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    app.tasks["t.bad"].delay("a secret")
    app.tasks["t.bad"].delay("x" * 5_000)
    app.work()
    long, short = reader.newest()
    assert short.args == '[["a secret"],{}]'
    assert long.args is not None
    assert len(long.args) < 400
    assert len(long.error or "") <= 300
    without = record(app, Level.FINAL, arguments=False)
    app.tasks["t.bad"].delay("hidden")
    app.work()
    assert without.newest(limit=1)[0].args is None


def test_an_event_that_the_store_refuses_holds_nothing_back(
    app: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    define(app)
    record(app, Level.FINAL)
    app.store.refuse = lambda item: (
        Code.THROTTLED if item.key.partition.startswith("events") else None
    )
    result = app.tasks["t.ok"].delay(3)
    with caplog.at_level(logging.WARNING):
        app.work()
    assert result.get(timeout=1) == 3
    assert "events are not recorded" in caplog.text


def test_a_record_that_the_store_refuses_is_not_taken_for_an_event(app: Bench) -> None:
    define(app)
    record(app, Level.FINAL)
    app.tasks["t.ok"].delay(3)
    delivery = app.one()
    pair = (delivery, app.settle(delivery))
    app.store.refuse = lambda item: (
        Code.THROTTLED if item.key.partition.startswith("task#") else None
    )
    done = commit([pair], app.broker, app.backend)
    assert list(done.failed) == [pair]
    assert not done.ready


def test_a_second_commit_of_an_outcome_is_no_second_event(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    app.tasks["t.ok"].delay(3)
    delivery = app.one()
    pair = (delivery, app.settle(delivery))
    commit([pair], app.broker, app.backend)
    commit([pair], app.broker, app.backend)
    assert len(reader.newest()) == 1


def test_a_redelivered_task_leaves_one_event_of_its_end(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    app.tasks["t.ok"].delay(3)
    app.receive()
    app.lose_leases()
    app.step()
    assert len(reader.newest()) == 1


def test_revoked_and_expired_tasks_are_recorded(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    waiting = app.tasks["t.ok"].delay(1)
    waiting.revoke()
    delayed = app.tasks["t.ok"].apply_async((2,), countdown=10_000)
    delayed.revoke()
    app.tasks["t.ok"].apply_async((3,), expires=1)
    app.lose_leases()
    app.work()
    events = reader.newest(states=[State.REVOKED])
    assert {event.error for event in events} == {"revoked", "expired"}
    assert {waiting.id, delayed.id} <= {event.id for event in events}


def test_a_delayed_task_that_is_taken_back_has_ended_then(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    app.wire.change_limits = lambda limits: replace(limits, max_delay=0.0)
    parked = app.tasks["t.ok"].apply_async((2,), countdown=10_000)
    parked.revoke()
    assert parked.state is State.REVOKED
    [event] = reader.newest()
    assert (event.id, event.state, event.task) == (parked.id, State.REVOKED, "t.ok")


def test_functions_record_events_and_honour_revocations_with_one_read(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    results = [app.tasks["t.ok"].delay(number) for number in range(6)]
    for result in results[:3]:
        result.revoke()
    deliveries = app.receive(6)
    app.store.calls.clear()
    invocation = Invocation(
        app.executor(stop_at_hard_limit=True),
        deadline=Deadline.after(60.0, reserve=0.0),
        log=Log("test"),
    )
    with invocation:
        assert invocation.run(deliveries) == []
    # One look at all six; what was revoked is recorded together, each run by itself.
    assert dict(app.store.calls) == {"get": 1, "put": 4}
    assert [app.state(result) for result in results[:3]] == [State.REVOKED] * 3
    ends = {event.id: event.state for event in reader.newest()}
    assert [ends[result.id] for result in results] == [State.REVOKED] * 3 + [State.SUCCESS] * 3


def test_new_events_are_followed_each_once(app: Bench) -> None:
    define(app)
    reader = record(app, Level.FINAL)
    app.tasks["t.ok"].delay(0)
    app.work()
    following = reader.follow(since=1.0)
    first = next(following)
    assert first is not None
    assert first.task == "t.ok"
    assert next(following) is None
    app.tasks["t.bad"].delay("b")
    app.work()
    second = next(following)
    assert second is not None
    assert (second.task, second.error) == ("t.bad", "b")
    assert next(following) is None
    assert next(following) is None
    following.close()


def test_nothing_is_known_of_a_task_that_was_never_recorded(app: Bench) -> None:
    assert record(app, Level.FINAL).trail("nobody") is None


def test_a_level_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigurationError, match="task_events"):
        Bench(task_events="all")
