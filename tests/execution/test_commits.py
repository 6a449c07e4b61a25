"""What a commit and the settling of messages leave in the queue and in the store, and in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cloudq import State, chord
from cloudq.canvas.slots import join_key
from cloudq.driver import Change, Code, StoreLimits
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Action, Batch, Settled
from cloudq.results.events import History
from cloudq.settings import Level
from tests.support.bench import Bench
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


# ---- messages


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
    assert batch.error is not None
    app.wire.refuse = lambda message: None
    assert [each.action for _, each in committed(app, batch.failed).ready] == [Action.ACK]


# ---- events

FREE = StoreLimits(put=25, get=100, item=400_000, billed=False, shared=True)


def replace_history(app: Bench) -> History:
    """Record an event of each end."""
    app.results.history = history = History(Level.FINAL, expires=60.0, arguments=False, max_body=1)
    return history


def test_a_success_without_a_record_is_an_event_too(app: Bench) -> None:
    app.task(name="t", ignore_result=True)(lambda: None)
    app.results.history = history = app.runtime._history(FREE)  # pyright: ignore[reportPrivateUsage]
    assert history is not None
    assert history.ends is not None
    call = app.tasks["t"].delay()
    app.work()
    item = history.ends.take()
    assert item is not None
    assert call.id in str(item.fields)


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
