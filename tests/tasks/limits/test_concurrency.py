"""So many calls of a key at a time, and what becomes of a key whose request died."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, InvalidArguments, State
from cloudq.driver import Delivery
from cloudq.errors import TimeLimitExceeded
from cloudq.execution.settlement import Action, Settlement
from cloudq.tasks.limits.concurrency import (
    NoPermit,
    Permit,
    PermitRequest,
    acquire,
    permits_key,
)
from cloudq.tasks.limits.renewer import LeaseRenewer
from cloudq.testing import eventually
from tests.support.bench import Bench


@pytest.fixture
def keyed(app: Bench) -> Any:
    """A task of which one call a user may run; `meanwhile` is called inside of it."""

    @app.task(name="t", concurrency="user:{user}")
    def task(user: int, n: int = 0) -> int:
        keyed.pop("meanwhile", lambda: None)()
        return n

    keyed: dict[str, Any] = {"task": task}
    return keyed


def start(app: Bench) -> tuple[Delivery, Settlement]:
    delivery = app.one()
    return delivery, app.settle(delivery)


def test_calls_of_one_key_run_one_after_the_other(app: Bench, keyed: Any) -> None:
    first, second, other = (keyed["task"].delay(user, 5) for user in (1, 1, 2))
    inside: list[Settlement] = []
    keyed["meanwhile"] = lambda: inside.extend([app.step(), app.step()])
    app.step()
    assert [s.state for s in inside] == [None, State.SUCCESS]
    assert inside[0].reason == f"user:1 is busy with {first.id}"
    assert (first.ready(), second.ready(), other.ready()) == (True, False, True)
    app.work()
    assert second.get(timeout=0) == 5


def test_so_many_calls_of_a_key_run_at_a_time(app: Bench) -> None:
    depth: list[int] = []
    most: list[int] = []

    @app.task(name="t", concurrency=("user:{user}", 3))
    def task(user: int) -> None:
        depth.append(user)
        most.append(len(depth))
        if app.sent():
            app.step()
        depth.pop()

    for _ in range(6):
        task.delay(7)
    app.work()
    assert max(most) == 3


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        (2, ""),
        ("fixed", "fixed"),
        ("{a}/{b}", "1/2"),
        ("{b:>3}", "  2"),
        (lambda a, b=2: f"f{a}", "f1"),
    ],
)
def test_a_key_may_be_a_number_a_template_or_a_function(app: Bench, rule: Any, key: str) -> None:
    seen: list[bool] = []

    @app.task(name="t", concurrency=rule)
    def task(a: int, b: int = 2) -> None:
        seen.append(permits_key("t", key) in app.results.get([permits_key("t", key)]))

    task.delay(1)
    app.work()
    assert seen == [True]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (
            "user:{who}",
            r"task t: concurrency is 'user:\{who\}'.* no parameter 'who'",
        ),
        ("user:{", "concurrency is"),
        ("{0}", "no parameter '0'"),
        (0, "the number must be 1 to 200"),
        (("k", 201), "the number must be 1 to 200"),
        (("k", "3"), "the number must be 1 to 200"),
        (True, "it must be a key"),
        (2.5, "it must be a key"),
    ],
)
def test_what_can_be_no_key_is_refused_where_it_is_declared(
    app: Bench, rule: Any, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        app.task(name="t", concurrency=rule)(lambda user: None)


def test_a_task_that_takes_any_keyword_may_be_keyed_by_one(app: Bench) -> None:
    @app.task(name="t", concurrency="user:{user}")
    def task(**kwargs: object) -> object:
        return kwargs["user"]

    result = task.delay(user=3)
    missing = task.delay(other=3)
    app.work()
    assert result.get(timeout=0) == 3
    with pytest.raises(InvalidArguments, match=r"KeyError: .user."):
        missing.get(timeout=0)


def test_a_place_is_free_again_whatever_the_end(app: Bench) -> None:
    ends: list[BaseException] = [ValueError("bad"), OSError("again"), SystemExit("out")]

    @app.task(name="t", concurrency="k", autoretry_for=[OSError])
    def task() -> None:
        if ends:
            raise ends.pop(0)

    for _ in range(4):
        task.delay()
        settled = [s for s in app.work() if "busy" in s.reason]
        assert settled == []


def test_the_call_of_a_dead_worker_takes_its_place_up_again_at_once(app: Bench, keyed: Any) -> None:
    result = keyed["task"].delay(1, 3)
    permit = _acquire(app, result.id)
    assert isinstance(permit, Permit)  # and its process died
    app.one()
    app.clock.ahead += 61  # the message is delivered again
    assert app.step().state is State.SUCCESS
    assert result.get(timeout=0) == 3


def test_others_get_the_place_of_a_dead_worker_when_its_lease_ends(app: Bench, keyed: Any) -> None:
    assert isinstance(_acquire(app, "dead", lease=60.0), Permit)
    result = keyed["task"].delay(1)
    assert "user:1 is busy with dead" in app.step().reason
    app.clock.ahead += 61
    app.step()
    assert result.ready()


def test_a_copy_that_is_delivered_at_the_same_time_waits(app: Bench, keyed: Any) -> None:
    result = keyed["task"].delay(1)
    assert isinstance(_acquire(app, result.id, delivery="elsewhere"), Permit)
    assert f"busy with {result.id}" in app.step().reason


def test_a_retry_lets_others_in(app: Bench) -> None:
    @app.task(name="t", concurrency="k", autoretry_for=[OSError], default_retry_delay=60.0)
    def task(fail: bool) -> None:
        if fail:
            raise OSError

    task.delay(True)
    second = task.delay(False)
    assert app.step().state is State.RETRY
    app.step()
    assert second.ready()


def test_waiting_for_a_key_is_no_death_and_grows_slower(app: Bench, keyed: Any) -> None:
    app.configure_deliveries(2)
    _acquire(app, "other", lease=3600.0)
    result = keyed["task"].delay(1)
    delays: list[float] = []
    for _ in range(15):
        delivery, settlement = start(app)
        assert (settlement.action, settlement.state) == (Action.ACK, None)
        assert settlement.resend is not None
        assert settlement.resend.not_before is not None
        delays.append(settlement.resend.not_before - app.clock())
        app.finish(delivery, settlement)
        app.clock.ahead += 61
    assert 0.4 <= delays[0] <= 1.1
    assert all(29 <= delay <= 61 for delay in delays[12:])
    assert (result.ready(), app.dead()) == (False, [])


def test_the_requests_of_a_keyed_call_are_two(app: Bench, keyed: Any) -> None:
    keyed["task"].delay(1)
    app.store.calls.clear()
    app.step()
    assert app.store.calls == {"get": 1, "put": 1, "update": 2}


def test_a_task_without_limits_costs_what_it_did(app: Bench) -> None:
    app.task(name="t")(lambda: None).delay()
    body = app.sent()[0]
    app.step()
    assert app.store.calls == {"get": 1, "put": 1}
    assert set(body) == {"v", "id", "task", "queue", "sent_at"}


def test_a_keyed_call_that_is_over_its_rate_frees_its_permit(app: Bench) -> None:
    @app.task(name="t", concurrency="k", global_rate_limit="1/h")
    def task() -> None: ...

    task.delay()
    task.delay()
    app.step()
    assert "over 1/h in all" in app.step().reason
    assert isinstance(_acquire(app, "next", key="k"), Permit)


def test_an_equal_call_that_is_done_holds_nothing(app: Bench) -> None:
    @app.task(name="t", concurrency="k", idempotent=True)
    def task() -> int:
        return 1

    results = [task.delay(), task.delay()]
    app.work()
    assert [result.get(timeout=0) for result in results] == [1, 1]
    assert isinstance(_acquire(app, "next", key="k"), Permit)


def test_a_call_stopped_at_its_hard_limit_frees_its_permit(app: Bench) -> None:
    @app.task(name="t", concurrency="user:{user}", time_limit=30.0)
    def task(user: int) -> None: ...

    result = task.delay(1)
    assert isinstance(_acquire(app, result.id, lease=60.0), Permit)
    job = app.job(app.one())
    settlement = app.runner.stopped(job, TimeLimitExceeded("too long"))
    assert settlement.state is State.FAILURE
    assert isinstance(_acquire(app, "next"), Permit)


def test_a_hard_limit_makes_the_lease_cover_all_of_the_run(app: Bench) -> None:
    seen: list[float] = []

    @app.task(name="t", concurrency="k", time_limit=600.0)
    def task() -> None:
        busy = acquire(app.results, permits_key("t", "k"), 1, _request("x"), 60.0)
        assert isinstance(busy, NoPermit)
        seen.append(busy.until - app.clock())

    task.delay()
    app.work()
    assert 600 <= seen[0] <= 640


@pytest.mark.slow
def test_a_lease_is_renewed_while_its_call_runs(app: Bench) -> None:
    permit = _acquire(app, "long", lease=2.4)
    assert isinstance(permit, Permit)
    renewer = LeaseRenewer()
    renewer.add(permit)
    end = time.monotonic() + 3.2
    while time.monotonic() < end:
        assert isinstance(_acquire(app, "other"), NoPermit)
        threading.Event().wait(0.02)
    renewer.remove(permit)
    eventually(lambda: isinstance(_acquire(app, "other"), Permit))


@pytest.mark.slow
def test_a_store_that_is_down_does_not_end_the_renewing(app: Bench) -> None:
    permit = _acquire(app, "long", lease=3.0)
    assert isinstance(permit, Permit)
    renewer = LeaseRenewer()
    renewer.add(permit)
    before = app.store.calls["update"]
    app.store.down.add("update")
    eventually(lambda: app.store.calls["update"] > before)
    app.store.down.clear()
    threading.Event().wait(3.2)
    assert isinstance(_acquire(app, "other"), NoPermit)
    renewer.remove(permit)


def test_the_thread_that_renews_ends_when_nothing_is_held_and_begins_again(
    app: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudq.tasks.limits.renewer._IDLE", 0.05)
    before = set(threading.enumerate())
    renewer = LeaseRenewer()

    def renewing() -> list[threading.Thread]:
        new = set(threading.enumerate()) - before
        return [thread for thread in new if thread.name == "leases of calls"]

    for _ in range(3):
        permit = _acquire(app, "one", lease=60.0)
        assert isinstance(permit, Permit)
        renewer.add(permit)
        assert len(renewing()) == 1
        renewer.remove(permit)
        eventually(lambda: not renewing())


def test_who_lost_the_place_does_not_free_that_of_its_successor(app: Bench) -> None:
    late = _acquire(app, "late", lease=10.0)
    assert isinstance(late, Permit)
    app.clock.ahead += 11
    assert isinstance(_acquire(app, "next", lease=100.0), Permit)
    assert late.renew() is False
    late.release()
    assert isinstance(_acquire(app, "third"), NoPermit)


def test_a_permit_that_cannot_be_freed_ends_with_its_lease(app: Bench, keyed: Any) -> None:
    first, second = keyed["task"].delay(1), keyed["task"].delay(1)
    keyed["meanwhile"] = lambda: app.store.down.add("update")
    delivery, settlement = start(app)
    app.store.down.clear()
    app.finish(delivery, settlement)
    assert first.ready()
    assert "busy" in app.step().reason
    app.clock.ahead += 61
    app.work()
    assert second.ready()


def test_without_a_store_a_key_is_refused_and_not_ignored() -> None:
    app = CloudQ("none", broker="memory://no-store", backend="none")
    task = app.task(name="t", concurrency="k")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"t: concurrency .* CLOUDQ_BACKEND"):
        task.delay()
    app.close()


def _request(owner: str, delivery: str = "d", fence: int = 1) -> PermitRequest:
    return PermitRequest(owner=owner, fence=fence, delivery=delivery)


def _acquire(
    app: Bench, owner: str, *, key: str = "user:1", lease: float = 60.0, delivery: str = "d"
) -> Permit | NoPermit:
    return acquire(app.results, permits_key("t", key), 1, _request(owner, delivery), lease)
