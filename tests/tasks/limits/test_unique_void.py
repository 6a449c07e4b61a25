"""A claim whose call will never run holds no key; one whose call runs, or will, does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from cloudq import CloudQ, ConfigurationError, State
from cloudq.testing import drain
from tests.support.bench import Bench


@pytest.fixture
def report(app: Bench) -> Any:
    ran: list[str] = []

    @app.task(name="report", unique="report:{day}", autoretry_for=[OSError], max_retries=3)
    def report(day: str, during: bool = False) -> str:
        ran.append(day)
        if during:
            report.during()  # type: ignore[attr-defined]
        return day

    report.ran, report.during = ran, None  # type: ignore[attr-defined]
    return report


@pytest.mark.parametrize("options", [{}, {"countdown": 30.0}, {"countdown": 3600.0}])
def test_a_revoked_call_in_the_queue_holds_no_key(
    app: Bench, report: Any, options: dict[str, Any]
) -> None:
    first = report.apply_async(["mon"], **options)
    first.revoke()
    second, third = report.delay("mon"), report.delay("mon")
    assert second != first
    assert third == second, "the new one holds it"
    app.work()
    assert (report.ran, first.state, second.state) == (["mon"], State.REVOKED, State.SUCCESS)


@pytest.mark.parametrize("moment", [False, True])
def test_an_expired_call_in_the_queue_holds_no_key(app: Bench, report: Any, moment: bool) -> None:
    expires = datetime.fromtimestamp(app.clock() + 5, UTC) if moment else 5.0
    first = report.apply_async(["tue"], expires=expires)
    assert report.delay("tue") == first, "not yet"
    app.clock.ahead += 6
    second = report.delay("tue")
    assert second != first
    app.work()
    assert (report.ran, first.state, second.state) == (["tue"], State.REVOKED, State.SUCCESS)


def test_a_call_that_was_revoked_before_it_was_sent_holds_no_key(app: Bench, report: Any) -> None:
    app.AsyncResult("known").revoke()
    first = report.apply_async(["mon"], task_id="known")
    second = report.delay("mon")
    assert second != first
    app.work()
    assert report.ran == ["mon"]


def test_a_retry_that_is_revoked_while_it_waits_holds_no_key(app: Bench) -> None:
    ran: list[int] = []

    @app.task(name="t", unique="k", autoretry_for=[OSError], max_retries=3)
    def task() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise OSError

    first = task.delay()
    assert app.step().state is State.RETRY
    assert task.delay() == first, "it will run again"
    first.revoke()
    second = task.delay()
    assert second != first
    app.work()
    assert (len(ran), first.state, second.state) == (2, State.REVOKED, State.SUCCESS)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_call_that_runs_keeps_its_key_until_it_ends(app: Bench, report: Any, end: str) -> None:
    seen: list[Any] = []

    def during() -> None:
        if end == "revoked":
            first.revoke()
        else:
            app.clock.ahead += 6
        seen.append(report.delay("mon"))

    report.during = during
    first = report.apply_async(["mon", True], expires=5)
    app.work()
    assert seen == [first]
    assert report.delay("mon") != first


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_call_that_lost_its_key_before_it_started_does_not_start(
    app: Bench, report: Any, end: str
) -> None:
    first = report.apply_async(["mon"], expires=50)
    delivery = app.one()
    job = app.job(delivery)  # a worker has it, and has not started it
    if end == "revoked":
        first.revoke()
    else:
        app.clock.ahead += 51
    second = report.delay("mon")
    assert second != first
    app.finish(delivery, app.runner.run(job))
    assert (report.ran, first.state) == ([], State.REVOKED)
    assert app.record(first).error == end
    app.work()
    assert (report.ran, second.state) == (["mon"], State.SUCCESS)


def test_two_that_lost_it_one_after_the_other(app: Bench, report: Any) -> None:
    first = report.delay("mon")
    delivery = app.one()
    job = app.job(delivery)
    first.revoke()
    second = report.delay("mon")
    second.revoke()
    third = report.delay("mon")
    assert len({first, second, third}) == 3
    app.finish(delivery, app.runner.run(job))
    app.work()
    assert (report.ran, third.state) == (["mon"], State.SUCCESS)


def test_one_that_started_and_died_holds_its_key_until_it_is_delivered_again(
    app: Bench, report: Any
) -> None:
    first = report.delay("mon")
    app.settle(app.one())  # the process dies before anything is recorded
    first.revoke()
    assert report.delay("mon") == first, "nobody can tell that it does not run"
    app.lose_leases()
    app.work()
    assert first.state is State.REVOKED
    assert report.delay("mon") != first


def test_a_key_given_with_a_call_is_freed_as_well(app: Bench) -> None:
    app.task(name="t")(lambda: None)
    first = app.send_task("t", unique_key="k", expires=5)
    app.clock.ahead += 6
    second = app.send_task("t", unique_key="k")
    assert second != first
    second.revoke()
    assert app.send_task("t", unique_key="k") != second


def test_an_idempotent_call_that_was_marked_and_lost_its_key_leaves_no_claim(app: Bench) -> None:
    ran: list[int] = []

    @app.task(name="t", unique="k", idempotent=True)
    def task(n: int) -> None:
        ran.append(n)

    first = task.delay(1)
    delivery = app.one()
    job = app.job(delivery)
    first.revoke()
    second = task.delay(1)
    app.finish(delivery, app.runner.run(job))
    app.work()
    assert (ran, second.state) == ([1], State.SUCCESS)


# ---- calls that were purged, and results of equal calls that never come


@pytest.fixture
def shop() -> Iterator[CloudQ]:
    with CloudQ("shop", broker=f"memory://{uuid4()}") as app:
        ran: list[str] = []
        app.task(name="report", unique=True)(ran.append)
        app.ran = ran  # type: ignore[attr-defined]
        yield app


@pytest.mark.parametrize("countdown", [None, 100.0])
def test_one_that_was_purged_holds_no_key(shop: Any, countdown: float | None) -> None:
    report = shop.tasks["report"]
    first = report.apply_async(("mon",), countdown=countdown)
    other = shop.send_task("elsewhere", unique_key="k", queue="other")
    assert report.delay("mon") == first
    assert shop.control.purge() == 1
    second = report.delay("mon")
    assert second != first
    assert report.delay("mon") == second, "it was sent after the purge"
    assert shop.send_task("elsewhere", unique_key="k", queue="other") == other
    drain(shop)
    assert (shop.ran, second.state) == (["mon"], State.SUCCESS)


def test_one_that_a_worker_had_when_its_queue_was_purged_runs_once(shop: Any) -> None:
    report = shop.tasks["report"]
    report.delay("mon")
    executor = shop.executor(hostname="bench")
    [job], _ = executor.open(shop.broker.receive("default", count=1, wait=0.0, lease=60.0))
    shop.control.purge()
    second = report.delay("mon")
    executor.run(job)
    drain(shop)
    assert (shop.ran, second.state) == (["mon"], State.SUCCESS)


def test_one_that_runs_while_its_queue_is_purged_holds_its_key(shop: Any) -> None:
    found: list[bool] = []

    @shop.task(name="during", unique=True, bind=True)
    def during(self: Any) -> None:
        shop.control.purge()
        found.append(during.delay().id == self.request.id)

    during.delay()
    drain(shop)
    assert found == [True]


@pytest.mark.parametrize("how", ["call", "task", "name", "many"])
def test_the_result_of_an_equal_call_that_records_nothing_says_so(app: Bench, how: str) -> None:
    task: Any = app.task(name="t", unique=True, ignore_result=how == "task")(lambda: None)
    first = task.apply_async() if how == "task" else task.apply_async(ignore_result=True)
    second = {
        "name": lambda: app.send_task("t"),
        "many": lambda: app.publish([task.prepare()])[0],
    }.get(how, task.delay)()
    assert first == second
    with pytest.raises(ConfigurationError, match="ignore_result"):
        second.get()
    third = app.task(name="u", unique=True)(lambda: 5)
    third.delay()
    equal = third.apply_async(ignore_result=True)
    app.work()
    assert equal.get(timeout=0) == 5


def test_the_result_of_an_equal_call_is_no_earlier_end_of_its_id(app: Bench) -> None:
    ran: list[int] = []

    @app.task(name="t", unique=True)
    def task() -> int:
        ran.append(1)
        return len(ran)

    task.apply_async(task_id="mine")
    app.work()
    task.apply_async(task_id="mine")
    equal = task.delay()
    assert (equal.id, equal.state) == ("mine", State.PENDING)
    app.work()
    assert equal.get(timeout=0) == 2
