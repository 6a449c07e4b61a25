"""Traces of commits and of settled messages, in the queue and in the store, also in doubt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloudq import BackendError, State, chord
from cloudq.canvas.slots import join_key
from cloudq.driver import Change, Code, StoreLimits
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Action, Batch, Settled, copy_of
from cloudq.messages.ids import place_in_series, place_of
from cloudq.results.events import History, partition_of
from cloudq.settings import Level
from tests.support.bench import Bench
from tests.support.faults import Outage
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def settled(app: Bench, count: int = 10) -> list[Settled]:
    """Receive messages and run their calls; the outcomes, which are not committed yet."""
    return [(delivery, app.settle(delivery)) for delivery in app.receive(count)]


def committed(app: Bench, pairs: Sequence[Settled]) -> Batch:
    return commit(pairs, app.broker, app.backend, app.workflows.joins)


def actions(pairs: Sequence[Settled]) -> dict[str, Action]:
    return {settlement.task_id: settlement.action for _, settlement in pairs}


# ---- joins


def test_a_member_whose_body_another_is_sending_comes_back_when_that_may_have_died(
    app: Bench, t: Tasks
) -> None:
    alone = t.same.delay(7)
    result = chord([t.same.s(1)], t.total.s()).delay()
    claim = Change(set={"owner": "another", "until": app.clock() + 10.0}, keep_expires=True)
    app.results.update(join_key(result.parent.id), claim)
    member = result.parent[0].id
    batch = committed(app, settled(app))
    assert actions(batch.ready) == {alone.id: Action.ACK, member: Action.RELEASE}
    [back] = [each for _, each in batch.ready if each.action is Action.RELEASE]
    assert 5.0 < back.after <= 10.0
    assert "another process is sending the body" in back.reason
    assert dispose(batch.ready, app.broker) == []
    assert app.left() == 1
    app.clock.ahead += 11.0
    app.work()
    assert result.get(timeout=0) == 1


def test_who_has_lost_a_member_does_not_take_it_out_of_its_join(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1)], t.total.s()).delay()
    app.one()
    app.lose_leases()
    second = app.one()
    outcome = app.settle(second)
    app.lose_leases()
    third = app.one()
    job = app.job(third)  # it has the call from now on
    assert app.finish(second, outcome).action is Action.NOTHING
    assert app.left() == 1, "the body is sent, and the member has no end"
    app.finish(third, app.runner.run(job))
    app.work()
    assert result.get(timeout=0) == 1


def test_a_call_beside_a_member_is_no_member(
    app: Bench, t: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    t.same.delay(7)
    result = chord([t.same.s(1)], t.total.s()).delay()
    batch = committed(app, settled(app))
    assert dispose(batch.ready, app.broker) == []
    assert "left out" not in caplog.text
    app.work()
    assert result.get(timeout=0) == 1


# ---- bundles


def test_a_bundle_that_another_delivery_has_is_left_to_it(app: Bench, t: Tasks) -> None:
    results = app.publish([t.same.prepare(n) for n in range(2)], bundle=2)
    first = app.one()
    jobs, _ = app.runner.open([first])
    late = [(job.delivery, app.runner.run(job)) for job in jobs]
    app.lose_leases()
    second = app.one()
    jobs, _ = app.runner.open([second])
    batch = committed(app, late)
    assert actions(batch.ready) == {result.id: Action.NOTHING for result in results}
    assert (batch.failed, dispose(batch.ready, app.broker)) == ([], [])
    assert [app.state(result) for result in results] == [State.PENDING] * 2
    batch = committed(app, [(job.delivery, app.runner.run(job)) for job in jobs])
    assert dispose(batch.ready, app.broker) == []
    assert [app.state(result) for result in results] == [State.SUCCESS] * 2
    assert app.left() == 0


def test_the_end_that_is_recorded_is_that_of_the_steps_after_it(app: Bench, t: Tasks) -> None:
    """A worker died when it had recorded the end, and before it recorded theirs."""
    said = iter(["one", "two"])

    @app.task(name="breaks", max_retries=0)
    def breaks() -> None:
        raise ValueError(next(said))

    result = (breaks.s() | t.same.s()).delay()
    first = app.one()
    ended = app.settle(first).record
    assert ended is not None
    app.lose_leases()
    second = app.one()
    later = app.settle(second)
    app.results.store([ended])
    app.finish(second, later)
    error = app.record(result).error or ""
    assert ("one" in error, "two" in error) == (True, False)


def test_a_long_chain_that_fails_ends_all_its_steps(app: Bench, t: Tasks) -> None:
    line = t.fail.s()
    for _ in range(60):
        line |= t.same.s()
    result = line.delay()
    app.work()
    assert app.state(result) is State.FAILURE


# ---- claims


def idempotent(app: Bench) -> Any:
    @app.task(name="once", idempotent=True, max_retries=0)
    def once(n: int) -> int:
        runs.append(n)
        if len(runs) == 1:
            raise ValueError("at first")
        return n

    runs: list[int] = []
    return once


def test_an_equal_call_runs_after_one_that_has_failed(app: Bench) -> None:
    once = idempotent(app)
    once.delay(5)
    assert app.step().state is State.FAILURE
    other = once.delay(5)
    app.work()
    assert other.get(timeout=0) == 5


def test_who_has_lost_an_idempotent_call_leaves_its_claim(app: Bench) -> None:
    once = idempotent(app)
    call = once.delay(5)
    delivery = app.one()
    failed = app.settle(delivery)
    assert failed.drop is not None
    before = app.store.calls["update"]
    committed(app, [(delivery, replace(failed, action=Action.NOTHING, record=None))])
    assert app.store.calls["update"] == before
    app.finish(delivery, failed)
    assert app.store.calls["update"] == before + 1
    assert app.state(call) is State.FAILURE


@pytest.mark.parametrize("option", ["idempotency_key", "unique_key"])
def test_an_end_stands_though_its_claim_can_never_be_ended(app: Bench, option: str) -> None:
    app.task(name="t", max_retries=0)(failing)
    once: dict[str, Any] = {option: "k"}
    call = app.tasks["t"].apply_async(**once)
    delivery = app.one()
    outcome = app.settle(delivery)
    app.results.update = never  # type: ignore[method-assign]
    app.results.insist = never  # type: ignore[method-assign]
    [(_, done)] = committed(app, [(delivery, outcome)]).ready
    assert done.action is Action.ACK
    assert "at first" in (app.record(call).error or "")


def plus_one(n: int) -> int:
    return n + 1


def failing() -> None:
    raise ValueError("at first")


def never(*_: object) -> Any:
    raise BackendError("a key that cannot be", code=Code.INVALID)


def test_a_member_of_a_bundle_that_was_revoked_too_late_leaves_its_join(app: Bench) -> None:
    """The same call has ended by itself meanwhile, and its end, a large one, lies apart."""
    value = "x" * 150_000
    big: Any = app.task(name="big", bundle=2)(plus_one)
    app.task(name="body")(len)
    result = chord([big.s(1), big.s(2)], app.tasks["body"].s()).delay()
    jobs, _ = app.runner.open(app.receive())
    pairs = [(job.delivery, app.runner.run(job)) for job in jobs]
    member = pairs[0][1].record
    assert member is not None
    place = place_of(member.id)
    assert place is not None
    app.results.revoke(member.id)
    large = replace(member, value=json.dumps(value))
    assert app.results.bundles.end(place, large) is None
    batch = committed(app, pairs)
    assert dispose(batch.ready, app.broker) == []
    app.work()
    assert result.get(timeout=0) == 2


# ---- what a store refuses


@pytest.mark.parametrize(
    "name", ["value", "meta", "error_args", "error_state", "traceback", "children", "error"]
)
def test_a_record_is_shrunk_by_whatever_was_too_large_in_it(app: Bench, name: str) -> None:
    call = app.task(name="t")(lambda: None).delay()
    [(delivery, outcome)] = settled(app)
    assert outcome.record is not None
    app.store.limits = replace(app.store.limits, item=2000)
    large = replace(outcome, record=replace(outcome.record, **{name: "x" * 3000}))
    [(_, done)] = committed(app, committed(app, [(delivery, large)]).failed).ready
    record = app.record(call)
    assert (done.action, record.state) == (Action.ACK, State.FAILURE)
    assert record.error_type == "cloudq.errors.EncodeError"
    assert "the result could not be stored" in (record.error or "")


def test_a_record_that_no_store_takes_is_left_out_and_its_message_buried(app: Bench) -> None:
    call = app.task(name="t")(lambda: None).delay()
    app.store.refuse = lambda item: Code.INVALID
    pairs, rounds = settled(app), 0
    while not (batch := committed(app, pairs)).ready:
        pairs, rounds = batch.failed, rounds + 1
        assert rounds < 5
    [(_, buried)] = batch.ready
    assert (buried.action, buried.record) == (Action.DEAD_LETTER, None)
    assert "its outcome could not be carried out: refused on purpose" in buried.reason
    assert dispose(batch.ready, app.broker) == []
    assert (app.state(call), len(app.dead())) == (State.PENDING, 1)


def test_the_end_of_a_call_that_is_alone_in_its_series_is_put_as_any(app: Bench) -> None:
    task = app.task(name="t")(lambda: None)
    calls = [task.delay() for _ in range(4)]
    assert place_in_series(calls[-1].id) is not None
    last = [pair for pair in settled(app) if pair[1].task_id == calls[-1].id]
    before = app.store.calls.copy()
    assert len(committed(app, last).ready) == 1
    assert (app.store.calls - before)["update"] == 0


def test_the_reasons_of_some_are_told_of_those_that_are_to_be_tried_again(
    app: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = app.task(name="t")(lambda: None)
    ill, down = task.delay(), task.delay()
    put = app.store.put

    def refusing(items: Any) -> Any:
        ids = " ".join(item.key.partition for item in items)
        if ill.id in ids:
            raise TypeError("it cannot be written")
        if down.id in ids:
            raise Outage("down")
        return put(items)

    monkeypatch.setattr(app.store, "put", refusing)
    batch = committed(app, settled(app))
    assert [each.task_id for _, each in batch.failed] == [down.id]
    assert batch.error is not None
    assert batch.error.code is Code.UNREACHABLE


def test_an_event_that_is_refused_for_ever_fails_no_call_of_a_bundle(
    app: Bench, t: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    replace_history(app)
    results = app.publish([t.same.prepare(n) for n in range(20)], bundle=20)
    app.store.refuse = lambda item: Code.TOO_LARGE if "event" in item.key.partition else None
    jobs, _ = app.runner.open(app.receive())
    batch = committed(app, [(job.delivery, app.runner.run(job)) for job in jobs])
    assert set(actions(batch.ready).values()) == {Action.ACK}
    assert [app.state(result) for result in results] == [State.SUCCESS] * 20
    assert "an event is not recorded: refused on purpose" in caplog.text


def test_a_bundle_waits_for_what_is_stored_beside_its_ends(app: Bench) -> None:
    task: Any = app.task(name="t", idempotent=True)(plus_one)
    results = app.publish([task.prepare(n) for n in range(2)], bundle=2)
    jobs, _ = app.runner.open(app.receive())
    pairs = [(job.delivery, app.runner.run(job)) for job in jobs]
    assert all(outcome.extra for _, outcome in pairs)
    app.store.refuse = lambda item: Code.THROTTLED if "bundle" not in item.key.partition else None
    batch = committed(app, pairs)
    assert (len(batch.failed), batch.ready) == (2, [])
    assert [app.state(result) for result in results] == [State.PENDING] * 2
    app.store.refuse = lambda item: None
    assert len(committed(app, batch.failed).ready) == 2
    assert [app.state(result) for result in results] == [State.SUCCESS] * 2


# ---- messages


@pytest.mark.parametrize(("delay", "ahead"), [(0.0, 0.0), (5.0, 60.0)])
def test_what_is_kept_comes_back_at_once_where_it_is_due(
    app: Bench, delay: float, ahead: float
) -> None:
    def fail() -> None:
        raise OSError

    app.task(name="t", autoretry_for=[OSError], default_retry_delay=delay)(fail).delay()
    pairs = settled(app)
    app.wire.change_limits = lambda limits: replace(limits, body=1)
    app.clock.ahead += ahead
    [(_, back)] = committed(app, pairs).ready
    assert (back.action, back.after) == (Action.RELEASE, 0.0)


def test_a_workflow_that_is_not_stored_stays_with_its_outcome_alone(app: Bench, t: Tasks) -> None:
    result = t.replaced.delay("chord")
    other = t.same.delay(7)
    pairs = settled(app)
    app.store.refuse = lambda item: Code.THROTTLED if "join" in item.key.partition else None
    batch = committed(app, pairs)
    assert actions(batch.ready) == {other.id: Action.ACK}
    assert [each.task_id for _, each in batch.failed] == [result.id]
    assert "was not stored" in str(batch.error)
    assert app.sent() == []
    app.store.refuse = lambda item: None
    again = committed(app, batch.failed)
    assert dispose([*batch.ready, *again.ready], app.broker) == []
    app.work()
    assert result.get(timeout=0) == 10


def test_the_end_of_a_delivery_that_is_late_is_no_end_though_its_copy_cannot_be_sent(
    app: Bench,
) -> None:
    """The retry of one that may run elsewhere is written under its fence, also as a failure."""
    runs: list[int] = []

    @app.task(name="t", autoretry_for=[OSError])
    def work() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise OSError
        return 5

    call = work.delay()
    app.one()
    app.lose_leases()
    second = app.one()
    retried = app.settle(second)
    app.lose_leases()
    app.step()
    assert app.state(call) is State.SUCCESS
    app.wire.refuse = lambda message: Code.INVALID
    committed(app, [(second, retried)])
    assert (app.state(call), call.get(timeout=0)) == (State.SUCCESS, 5)


def test_what_can_never_be_sent_is_kept_beside_what_is_not_taken_now(app: Bench) -> None:
    def fail(text: str) -> None:
        raise OSError(text)

    app.task(name="large", autoretry_for=[OSError])(fail).delay("x" * 500)
    app.task(name="small", autoretry_for=[OSError])(fail).delay("x")
    size = len(app.memory.peek("default", count=1)[0].body)
    app.wire.change_limits = lambda limits: replace(limits, body=size)
    app.wire.refuse = lambda message: Code.THROTTLED
    batch = committed(app, settled(app))
    assert [(each.name, each.action) for _, each in batch.ready] == [("large", Action.RELEASE)]
    assert [each.name for _, each in batch.failed] == ["small"]
    assert "refused on purpose" in str(batch.error)
    app.wire.refuse = lambda message: None
    assert [each.action for _, each in committed(app, batch.failed).ready] == [Action.ACK]


# ---- events

FREE = StoreLimits(put=25, get=100, item=400_000, billed=False, shared=True)


def replace_history(app: Bench) -> History:
    """Record an event of each end."""
    app.results.history = history = History(Level.FINAL, expires=60.0, arguments=False, max_body=1)
    return history


@pytest.mark.parametrize("ignored", [False, True])
def test_each_success_is_logged_with_or_without_a_record(app: Bench, ignored: bool) -> None:
    app.task(name="t", ignore_result=ignored)(lambda: None)
    app.results.history = history = app.runtime._history(FREE)  # pyright: ignore[reportPrivateUsage]
    assert history is not None
    assert history.ends is not None
    call = app.tasks["t"].delay()
    app.work()
    item = history.ends.take()
    assert item is not None
    assert call.id in str(item.fields)


def test_a_failure_is_an_event_also_where_successes_are_logged(app: Bench) -> None:
    app.results.history = history = app.runtime._history(FREE)  # pyright: ignore[reportPrivateUsage]
    app.task(name="t", max_retries=0)(failing).delay()
    app.work()
    assert history is not None
    assert history.ends is not None
    assert history.ends.take() is None
    assert events(app, State.FAILURE) == 1


def events(app: Bench, state: State) -> int:
    return len(app.store.query(partition_of("t", state), after=None, limit=10).items)


def test_the_end_of_a_redelivered_call_is_an_event(app: Bench) -> None:
    replace_history(app)
    app.task(name="t")(lambda: None).delay()
    app.one()
    app.lose_leases()
    app.step()
    assert events(app, State.SUCCESS) == 1


def test_the_end_of_an_earlier_call_of_an_id_is_an_event_though_a_later_one_is_recorded(
    app: Bench,
) -> None:
    replace_history(app)
    task = app.task(name="t", track_started=True)(lambda: None)
    task.apply_async(task_id="mine")
    [early] = settled(app)
    later = task.apply_async(task_id="mine")
    app.settle(app.one())
    [(_, done)] = committed(app, [early]).ready
    assert done.action is Action.ACK
    assert events(app, State.SUCCESS) == 1
    assert app.state(later) is State.STARTED


def test_a_retry_whose_copy_has_started_is_an_event(app: Bench) -> None:
    app.results.history = History(Level.TRACKED, expires=60.0, arguments=False, max_body=1)
    runs: list[int] = []

    @app.task(name="t", autoretry_for=[OSError], track_started=True, default_retry_delay=0.0)
    def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise OSError

    call = work.delay()
    [(delivery, retried)] = settled(app)
    app.post(retried.resend or copy_of(app.job(delivery).message))
    app.settle(app.one())  # the copy has started
    [(_, done)] = committed(app, [(delivery, replace(retried, resend=None))]).ready
    assert done.action is Action.ACK
    assert events(app, State.RETRY) == 1
    assert app.state(call) is State.STARTED


def test_an_event_that_the_store_refuses_is_logged_and_holds_up_nothing(
    app: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    history = replace_history(app)
    call = app.task(name="t")(lambda: None).delay()
    refused = ("events",)
    app.store.refuse = lambda item: Code.INVALID if item.key.partition.startswith(refused) else None
    batch = committed(app, settled(app))
    assert (len(batch.ready), batch.failed) == (1, [])
    assert app.state(call) is State.SUCCESS
    assert "2 events are not recorded: refused on purpose" in caplog.text
    assert history.keeps(State.SUCCESS)


def test_a_record_that_the_store_refuses_is_no_event(
    app: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    replace_history(app)
    app.task(name="t")(lambda: None).delay()
    app.store.refuse = lambda item: None if "event" in item.key.partition else Code.THROTTLED
    batch = committed(app, settled(app))
    assert (batch.ready, len(batch.failed)) == ([], 1)
    assert "events are not recorded" not in caplog.text
