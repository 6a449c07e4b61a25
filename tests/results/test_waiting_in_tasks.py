"""`get()` within a task: it raises where it might wait for ever, and never waits in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from cloudq import (
    CloudQ,
    CloudQError,
    ConfigurationError,
    WaitInTask,
    allow_join_result,
    chain,
    chord,
    group,
)
from cloudq.contrib.celery import Celery
from cloudq.contrib.celery.result import allow_join_result as celerys
from cloudq.contrib.celery.result import denied_join_result
from cloudq.errors import WaitInTask as Error
from cloudq.testing import eventually, run_until_idle, worker


def with_tasks(app: Any) -> Any:
    """Give an app tasks that wait for others, in each way that there is."""

    @app.task(name="child")
    def child(number: int = 1) -> int:
        return number

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def sent(how: str) -> Any:
        if how == "one":
            return child.delay()
        if how == "group":
            return group([child.s(1), child.s(2)]).delay()
        if how == "nested":
            return group([group([child.s(1)]), chain(child.s(1), child.si(2))]).delay()
        if how == "chord":
            return chord([child.s(1), child.s(2)], total.s()).delay()
        return chain(child.s(1), group([child.si(2)])).delay()

    @app.task(name="parent")
    def parent(how: str = "one", join: bool = False, **options: Any) -> Any:
        result = sent(how)
        return result.join(**options) if join else result.get(**options)

    @app.task(name="allowed")
    def allowed(how: str = "one") -> Any:
        with allow_join_result():
            return sent(how).get()

    @app.task(name="aparent")
    async def aparent() -> Any:
        return await child.delay()

    @app.task(name="aallowed")
    async def aallowed() -> Any:
        with celerys():
            return await child.delay()

    @app.task(name="looks")
    def looks(id: str, timeout: float | None = None) -> Any:
        return app.AsyncResult(id).get(timeout=timeout)

    @app.task(name="alooks")
    async def alooks(id: str) -> Any:
        return await app.AsyncResult(id)

    return app


@pytest.fixture
def celery() -> Any:
    named = f"memory://wait-{uuid4()}"
    return with_tasks(Celery("wait", broker=named, backend=named))


@pytest.fixture
def app() -> Any:
    return with_tasks(CloudQ("wait", broker=f"memory://wait-{uuid4()}", max_retries=0))


WAYS = ("one", "group", "nested", "chord", "chain")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("how", WAYS)
def test_under_celery_s_names_it_raises_at_once(celery: Any, how: str, threads: int) -> None:
    with worker(celery, threads=threads) as running:
        parent = celery.tasks["parent"].delay(how)
        running.run_until_idle()
        error = parent.get(timeout=5, propagate=False)
    assert isinstance(error, RuntimeError)
    assert isinstance(error, CloudQError)
    assert "must not be called within a task" in str(error)
    assert "allow_join_result" in str(error)


def test_so_does_a_join_an_await_and_one_with_a_timeout(celery: Any) -> None:
    with worker(celery, threads=4) as running:
        tried = [
            celery.tasks["parent"].delay("group", True),
            celery.tasks["parent"].delay("one", False, timeout=5),
            celery.tasks["aparent"].delay(),
            celery.tasks["looks"].delay("nobody"),
        ]
        running.run_until_idle()
        for each in tried:
            assert isinstance(each.get(timeout=5, propagate=False), WaitInTask)


@pytest.mark.parametrize("how", WAYS)
def test_it_waits_where_that_is_allowed(celery: Any, how: str) -> None:
    with worker(celery, threads=4) as running:
        allowed = celery.tasks["allowed"].delay(how)
        given = celery.tasks["parent"].delay(how, disable_sync_subtasks=False)
        running.run_until_idle()
        assert allowed.get(timeout=10) == given.get(timeout=10)


def test_an_await_waits_where_that_is_allowed(celery: Any) -> None:
    with worker(celery, threads=2) as running:
        result = celery.tasks["aallowed"].delay()
        running.run_until_idle()
        assert result.get(timeout=10) == 1


def test_outside_of_tasks_and_in_eager_ones_nothing_changes(celery: Any) -> None:
    assert celery.tasks["child"].apply().get() == 1
    celery.conf.update(task_always_eager=True)
    for how in WAYS:
        assert celery.tasks["parent"].delay(how).get() is not None
    assert celery.tasks["aparent"].delay().get() == 1


def test_a_result_that_is_known_is_given(celery: Any) -> None:
    @celery.task(name="patient")
    def patient() -> Any:
        sent = celery.tasks["child"].delay(7)
        eventually(sent.ready)
        return sent.get(), sent.result

    with worker(celery, threads=2) as running:
        result = patient.delay()
        running.run_until_idle()
        assert list(result.get(timeout=10)) == [7, 7]


def test_it_can_be_denied_anywhere(celery: Any) -> None:
    result = celery.tasks["child"].delay()
    with denied_join_result(), pytest.raises(RuntimeError):
        result.get(timeout=0)
    assert Error is WaitInTask


# ---- natively


@pytest.mark.parametrize("how", WAYS)
def test_natively_a_task_waits_while_another_place_is_free(app: Any, how: str) -> None:
    with worker(app, threads=2) as running:
        result = app.tasks["parent"].delay(how)
        running.run_until_idle()
        assert result.get(timeout=10) is not None


@pytest.mark.parametrize("name", ["parent", "aparent"])
def test_the_last_place_does_not_wait(app: Any, name: str) -> None:
    with worker(app, threads=1) as running:
        result = app.tasks[name].delay()
        running.run_until_idle()
        error = result.get(timeout=5, propagate=False)
    assert isinstance(error, WaitInTask)
    assert "it runs one at a time" in str(error)


@pytest.mark.slow
def test_many_that_wait_do_not_block_each_other(app: Any) -> None:
    with worker(app, threads=3) as running:
        results = [app.tasks["parent"].delay() for _ in range(30)]
        results += [app.tasks["aparent"].delay() for _ in range(10)]
        running.run_until_idle(timeout=60)
        ends = [result.get(timeout=10, propagate=False) for result in results]
    assert all(end == 1 or isinstance(end, WaitInTask) for end in ends)
    assert 1 in ends


@pytest.mark.parametrize("name", ["looks", "alooks"])
def test_a_result_that_is_there_is_seen_in_the_last_place(app: Any, name: str) -> None:
    done = app.tasks["child"].delay(5)
    run_until_idle(app)
    result = app.tasks[name].delay(done.id)
    run_until_idle(app)
    assert result.get(timeout=0) == 5


def test_a_wait_with_a_timeout_ends_by_itself(app: Any) -> None:
    result = app.tasks["looks"].delay("nobody", 0.05)
    run_until_idle(app)
    assert isinstance(result.get(timeout=0, propagate=False), TimeoutError)


def test_one_task_that_waits_for_many_at_once_counts_once(app: Any) -> None:
    @app.task(name="gathers")
    async def gathers() -> list[int]:
        return list(await asyncio.gather(*(app.tasks["child"].delay(n) for n in range(5))))

    with worker(app, threads=2) as running:
        result = gathers.delay()
        running.run_until_idle()
        assert result.get(timeout=10) == [0, 1, 2, 3, 4]


# ---- results that nobody records


def ignored(app: Any) -> Iterator[Any]:
    @app.task(name="silent", ignore_result=True)
    def silent(number: int = 1) -> int:
        return number

    child = app.tasks["child"]
    yield silent.delay()
    yield child.apply_async((), ignore_result=True)
    yield app.send_task("elsewhere", ignore_result=True)
    yield app.send_task("silent")
    yield silent.s(1).delay()
    yield chain(child.s(1), silent.s()).delay()
    yield group([child.s(1), silent.s(2)]).delay()
    yield silent.apply_async((1,), link=child.s())
    [sent] = app.publish([silent.prepare(1)])
    yield sent


def test_what_is_never_recorded_is_not_waited_for(app: Any) -> None:
    for result in ignored(app):
        with pytest.raises(ConfigurationError, match=r"is not recorded, since .* ignore_result"):
            result.get()


def test_nor_awaited(app: Any) -> None:
    async def wait() -> None:
        await app.tasks["child"].apply_async((), ignore_result=True)

    with pytest.raises(ConfigurationError, match="ignore_result"):
        asyncio.run(asyncio.wait_for(wait(), 5))


def test_a_call_may_say_otherwise_and_members_of_chords_are_recorded(app: Any) -> None:
    @app.task(name="silent", ignore_result=True)
    def silent(number: int = 1) -> int:
        return number

    said = silent.apply_async((3,), ignore_result=False)
    joined = chord([silent.s(1), silent.s(2)], app.tasks["total"].s()).delay()
    chained = chain(silent.s(4), app.tasks["child"].s()).delay()
    run_until_idle(app)
    assert (said.get(timeout=0), joined.get(timeout=0), chained.get(timeout=0)) == (3, 3, 4)
    assert joined.parent.get(timeout=0) == [1, 2]


def test_the_setting_counts_for_tasks_that_say_nothing() -> None:
    app = with_tasks(CloudQ("quiet", broker=f"memory://quiet-{uuid4()}", task_ignore_result=True))
    with pytest.raises(ConfigurationError, match="ignore_result"):
        app.tasks["child"].delay().get()
