"""Claims, permits and schedules that were written, and whose answer was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from cloudq import Task
from cloudq.driver import Change, Check, ConditionFailed, Key, Op, Outgoing
from cloudq.errors import BackendError, ConfigurationError
from cloudq.execution.settlement import (
    Action,
    Settlement,
    come_back,
    copy_of,
    delivered_before,
)
from cloudq.messages.message import TaskMessage
from cloudq.schedules.when import every
from cloudq.tasks.limits.concurrency import Permit, PermitRequest, acquire
from tests.support.bench import Bench
from tests.support.lost import Deaf


def charging(app: Bench) -> Any:
    """A task that is tried again once before it has its effect; `runs` has its effects."""
    runs: list[int] = []

    @app.task(name="charge", bind=True, idempotent=True, default_retry_delay=0.0)
    def charge(self: Task[..., int], number: int) -> int:
        if not self.request.retries:
            raise self.retry()
        runs.append(number)
        return number * 2

    charge.runs = runs  # type: ignore[attr-defined]
    return charge


def deafen(
    app: Bench, at: int, *, again: bool = False, times: int = 1, down: int = 0
) -> Iterator[int]:
    """Lose the answers to these updates of the store; the numbers of those to come."""
    calls = count()
    names = frozenset({"update"})
    deaf = Deaf(app.store, calls, at, names, again=again, times=times, down=down)
    app.results.driver = deaf  # type: ignore[assignment]
    return calls


def hear(app: Bench) -> None:
    app.results.driver = app.store


@pytest.mark.parametrize("again", [True, False], ids=["made again", "told"])
def test_whichever_answer_to_a_claim_is_lost_the_call_runs_once_and_at_once(again: bool) -> None:
    for at in count():
        with Bench() as app:
            task = charging(app)
            result = task.delay(4)
            calls = deafen(app, at, again=again)
            app.work()
            hear(app)
            assert (result.get(timeout=0), task.runs) == (8, [4])
            assert app.clock.ahead == 0, "it has waited"
            if next(calls) <= at:
                assert at > 1
                return


def test_a_claim_that_is_refused_for_long_is_freed_and_the_call_waits_as_a_copy(app: Bench) -> None:
    task = charging(app)
    result = task.delay(4)
    delivery = app.one()
    deafen(app, 0, down=2)
    settlement = app.settle(delivery)
    assert settlement.action is Action.ACK
    assert settlement.resend is not None
    assert settlement.resend.not_before == pytest.approx(app.clock() + 1.0, abs=0.9)
    hear(app)
    app.finish(delivery, settlement)
    app.work()
    assert (result.get(timeout=0), task.runs) == (8, [4])
    assert app.clock.ahead <= 1000.0, "it has waited for the end of the claim"


def test_a_claim_that_may_be_left_behind_is_taken_over_by_the_next_delivery(app: Bench) -> None:
    task = charging(app)
    result = task.delay(4)
    delivery = app.one()
    deafen(app, 0, down=5)
    settlement = app.settle(delivery)
    # A copy would be kept from running by the claim, for an hour.
    assert settlement.action is Action.RELEASE
    hear(app)
    app.finish(delivery, settlement)
    app.work()
    assert (result.get(timeout=0), task.runs) == (8, [4])
    assert app.clock.ahead <= 1000.0


def test_a_copy_that_the_store_refuses_leaves_the_claim_of_the_one_that_runs(app: Bench) -> None:
    runs: list[int] = []

    @app.task(name="charge", idempotent=True)
    def charge(number: int) -> int:
        runs.append(number)
        if len(runs) == 1:
            deafen(app, 0, times=9)
            meanwhile.append(app.settle(app.one()))
            hear(app)
        return number * 2

    meanwhile: list[Any] = []
    result = charge.delay(4)
    app.wire.send("default", [_copy(app)])
    app.work()
    assert meanwhile[0].resend is not None
    assert (result.get(timeout=0), runs) == (8, [4])


def _copy(app: Bench) -> Outgoing:
    (peeked,) = app.memory.peek("default", count=2)
    return Outgoing(id=peeked.id, body=peeked.body)


# ---- the pause


def test_a_call_that_the_store_refused_waits_for_as_long_as_the_store_is_down(app: Bench) -> None:
    backend, key = app.results, Key("x")
    assert backend.pause == 1.0
    app.store.down.add("update")
    for ahead, pause in ((0, 1.0), (10, 10.0), (100, 30.0)):
        app.clock.ahead = ahead
        with pytest.raises(BackendError):
            backend.update(key, Change(set={"a": 1}))
        assert backend.pause == pytest.approx(pause, abs=0.9)
    app.store.down.clear()
    assert backend.get([key]) == {}
    assert backend.pause == 1.0


def test_a_condition_that_fails_is_an_answer(app: Bench) -> None:
    backend, key = app.results, Key("x")
    app.store.down.add("get")
    with pytest.raises(BackendError):
        backend.get([key])
    app.clock.ahead += 20
    with pytest.raises(ConditionFailed):
        backend.update(key, Change(set={"a": 1}, when=(Check(field="a", op=Op.EXISTS),)))
    assert backend.pause == 1.0


# ---- neighbours: other writes that are made again when their answer is lost


def test_a_permit_whose_answer_is_lost_is_held_and_renewed(app: Bench) -> None:
    request = PermitRequest(owner="a", fence=1, delivery="here")
    deafen(app, 0, again=True)
    permit = acquire(app.results, Key("busy#t#1"), 1, request, 60.0)
    assert isinstance(permit, Permit)
    deafen(app, 0, again=True)
    app.clock.ahead += 1
    assert permit.renew()
    deafen(app, 0, again=True)
    permit.release()
    hear(app)
    other = PermitRequest(owner="b", fence=1, delivery="there")
    assert isinstance(acquire(app.results, Key("busy#t#1"), 1, other, 60.0), Permit)


def test_a_schedule_whose_answer_is_lost_does_not_exist_already(app: Bench) -> None:
    app.task(name="note")(lambda: None)
    deafen(app, 0, again=True)
    app.schedules.add("x", "note", every(5))
    hear(app)
    assert app.schedules.entry("x").when == every(5)
    with pytest.raises(ConfigurationError, match="already: delete it, or replace it"):
        app.schedules.add("x", "note", every(6))


@pytest.mark.parametrize("later", [1.0, 0.0], ids=["another copy", "the same message"])
def test_another_copy_of_a_message_takes_no_claim_over_however_often_it_came(later: float) -> None:
    with Bench() as app:
        runs: list[int] = []
        meanwhile: list[Settlement] = []

        @app.task(name="charge", idempotent=True)
        def charge(number: int) -> int:
            runs.append(number)
            if len(runs) == 1:
                [job], _ = app.runner.open([again])
                meanwhile.append(app.runner.run(job))
            return number

        charge.delay(4)
        [first] = app.receive()
        assert first.sent_at is not None
        again = replace(first, attempts=2, sent_at=first.sent_at + later, receipt="another")
        [job], _ = app.runner.open([first])
        app.runner.run(job)
        assert len(runs) == (1 if later else 2)  # the same message came again: its process died
        assert ("is running" in meanwhile[0].reason) == bool(later)


def test_a_copy_in_place_of_a_message_takes_its_claim_over_but_no_copy_of_its_next_try() -> None:
    message = TaskMessage(id="a", task="t", headers={"a": "b"})
    copy = come_back(message, 3)
    assert (delivered_before(copy), copy.headers["a"]) == (3, "b")
    assert delivered_before(copy_of(copy, waits=1)) == 3
    tried = copy_of(copy, retries=1)
    assert (delivered_before(tried), tried.headers) == (0, {"a": "b"})
