"""Results: waiting, values in their types, exceptions in their classes, revoking, forgetting."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from cloudq import (
    AsyncResult,
    CloudQ,
    CloudQError,
    ConfigurationError,
    EncodeError,
    Reject,
    ResultTimeout,
    State,
    TaskFailure,
    TaskRevoked,
    wait_for,
)
from cloudq.driver import Change, ConditionFailed, Item, Key, StoreLimits
from cloudq.results.changes import advance, make
from cloudq.results.record import Record, failure, fence, from_item, key, to_item
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench


class Declined(Exception):
    """An exception of the user's own."""


class Strange(Exception):
    def __init__(self, *, code: object) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Picky(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code + 1}")


class User(BaseModel):
    name: str
    joined: datetime


@dataclass
class Point:
    x: int
    y: int


def failing(app: Bench, error: BaseException) -> AsyncResult[None]:
    @app.task(name=f"fails-{len(app.tasks)}")
    def fails() -> None:
        raise error

    result = fails.delay()
    app.work()
    return result


# ---- waiting


def test_get_waits_for_a_task_that_ends_meanwhile(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda: 42)
    result = task.delay()
    worker = threading.Timer(0.05, drain, [plain])
    worker.start()
    assert result.get(timeout=PATIENCE) == 42
    worker.join()


def test_get_gives_up_after_its_timeout(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda: 42)
    result = task.delay()
    start = time.monotonic()
    with pytest.raises(ResultTimeout, match=rf"task {result.id} had not ended after 0\.1 s: is a"):
        result.get(timeout=0.1)
    assert time.monotonic() - start > 0.09
    with pytest.raises(TimeoutError):
        result.get(timeout=0)


def test_a_timeout_for_several_counts_those_that_had_not_ended(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda: 42)
    results = [task.delay(), task.delay()]
    with pytest.raises(ResultTimeout, match=rf"2 of 2 tasks .* 0\.1 s.*{results[0].id}"):
        wait_for(results, timeout=0.1)


def test_interval_is_the_longest_pause_between_two_looks(app: Bench) -> None:
    result = app.AsyncResult("never")
    with pytest.raises(ResultTimeout):
        result.get(timeout=1.0, interval=0.01)
    often = app.store.calls["get"]
    app.store.calls.clear()
    with pytest.raises(ResultTimeout):
        result.get(timeout=1.0)
    assert often > app.store.calls["get"]


def test_a_finished_result_is_asked_for_once(app: Bench) -> None:
    task: Any = app.task(lambda: 42)
    result = task.delay()
    app.work()
    app.store.calls.clear()
    assert [result.get(), result.get(), result.state, result.ready()] == [
        42,
        42,
        State.SUCCESS,
        True,
    ]
    assert app.store.calls == {"get": 1}


def test_waiting_for_many_is_one_batched_read_a_look(app: Bench) -> None:
    task: Any = app.task(lambda n: n)
    results = app.publish(task.prepare(n) for n in range(40))
    app.work()
    app.store.calls.clear()
    records = wait_for(results, timeout=0)
    assert [record.value for record in records] == [str(n) for n in range(40)]
    assert app.store.calls == {"get": 2}  # the items of series, then those of the calls


def test_waiting_for_more_than_a_read_takes_reads_each_batch_once(app: Bench) -> None:
    app.store.limits = StoreLimits(put=25, get=10, item=400_000)
    task: Any = app.task(lambda n: n)
    results = app.publish(task.prepare(n) for n in range(40))
    app.work()
    app.store.calls.clear()
    assert len(wait_for(results, timeout=0)) == 40
    assert app.store.calls == {"get": 2 * 4}


def test_waiting_for_many_says_how_many_are_missing(app: Bench) -> None:
    task: Any = app.task(lambda n: n)
    done = task.delay(1)
    app.work()
    missing = app.AsyncResult("missing")
    with pytest.raises(ResultTimeout, match=r"1 of 3 tasks .* first of them missing"):
        wait_for([done, missing, done], timeout=0)


def test_waiting_for_nothing_and_for_the_same_twice(app: Bench) -> None:
    assert wait_for([]) == []
    task: Any = app.task(lambda: 1)
    result = task.delay()
    app.work()
    assert [r.id for r in wait_for([result, result], timeout=0)] == [result.id] * 2


def test_await_gives_the_value_and_raises_the_error(app: Bench) -> None:
    task: Any = app.task(name="t")(lambda: 42)
    good, bad = task.delay(), failing(app, ValueError("bad"))

    async def main() -> None:
        assert await good == 42
        with pytest.raises(ValueError, match="bad"):
            await bad

    asyncio.run(main())


def test_no_backend_is_a_clear_error() -> None:
    with CloudQ(broker="memory://none", backend="none") as app:
        task: Any = app.task(lambda: 1)
        result = task.delay()
        for ask in (result.get, result.ready, result.revoke, result.forget):
            with pytest.raises(ConfigurationError, match=r"no result backend: set CloudQ\(backend"):
                ask()


# ---- values


def test_results_come_back_in_the_type_the_task_says(app: Bench) -> None:
    joined = datetime(2026, 1, 2, tzinfo=UTC)

    @app.task(name="users")
    def users() -> list[User]:
        return [User(name="Anna", joined=joined)]

    @app.task(name="point")
    async def point() -> Point | None:
        return Point(1, 2)

    first, second = users.delay(), point.delay()
    app.work()
    assert first.get(timeout=0) == [User(name="Anna", joined=joined)]
    assert second.get(timeout=0) == Point(1, 2)
    assert app.AsyncResult(second.id).get(timeout=0) == {"x": 1, "y": 2}


def test_a_result_that_does_not_fit_its_type_is_said_so(app: Bench) -> None:
    @app.task(name="point")
    def point() -> Point:
        return {"x": "no"}  # type: ignore[return-value]

    result = point.delay()
    app.work()
    with pytest.raises(EncodeError, match="the result of point does not fit its type"):
        result.get(timeout=0)
    assert result.state == State.FAILURE


def test_none_is_a_value(app: Bench) -> None:
    task: Any = app.task(lambda: None)
    result = task.delay()
    app.work()
    assert (result.get(timeout=0), result.successful()) == (None, True)


# ---- what is known


def test_an_unknown_task_is_pending(app: Bench) -> None:
    result = app.AsyncResult("never")
    assert (result.state, result.status, result.ready()) == (State.PENDING, State.PENDING, False)
    assert (result.result, result.info, result.traceback, result.date_done) == (None,) * 4


def test_a_finished_task_tells_when_and_after_how_many_retries(app: Bench) -> None:
    before = datetime.now(UTC)
    result = failing(app, ValueError("bad"))
    assert result.date_done is not None
    assert abs((result.date_done - before).total_seconds()) < 30
    assert (result.retries, result.failed(), result.successful()) == (0, True, False)
    assert "ValueError: bad" in (result.traceback or "")
    assert isinstance(result.result, ValueError)
    assert isinstance(result.info, ValueError)


def test_results_are_equal_by_id(app: Bench) -> None:
    first, same, other = (app.AsyncResult(name) for name in ("a", "a", "b"))
    assert first == same != other
    assert len({first, same, other}) == 2
    assert first == "a" != other  # as Celery's


# ---- errors


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 3),
        KeyError("missing"),
        FileNotFoundError(2, "No such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        Declined("no credit", {"limit": 5}),
        ZeroDivisionError(),
        CloudQError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_in_its_own_class(app: Bench, error: Exception) -> None:
    result = failing(app, error)
    with pytest.raises(type(error)) as caught:
        result.get(timeout=0)
    assert type(caught.value) is type(error)
    assert (caught.value.args, str(caught.value)) == (error.args, str(error))
    assert "raised in the worker:" in caught.value.__notes__[0]
    assert "Traceback" in caught.value.__notes__[0]


def test_propagate_false_returns_the_error(app: Bench) -> None:
    error: Any = failing(app, Declined("no")).get(timeout=0, propagate=False)
    assert isinstance(error, Declined)


def test_an_error_of_an_unknown_class_is_a_task_failure(app: Bench) -> None:
    kind = type("Gone", (Exception,), {"__module__": "not.here"})
    with pytest.raises(TaskFailure) as caught:
        failing(app, kind("bad")).get(timeout=0)
    assert (str(caught.value), caught.value.type) == ("not.here.Gone: bad", "not.here.Gone")
    assert "bad" in caught.value.traceback


def test_a_class_that_cannot_be_made_again_is_a_task_failure(app: Bench) -> None:
    with pytest.raises(TaskFailure, match=r"Strange: code <object"):
        failing(app, Strange(code=object())).get(timeout=0)
    with pytest.raises(Strange, match="code 3"):
        failing(app, Strange(code=3)).get(timeout=0)
    with pytest.raises(Picky, match="code 4"):
        failing(app, Picky(3)).get(timeout=0)


def test_an_error_with_arguments_that_cannot_be_sent_keeps_its_text(app: Bench) -> None:
    with pytest.raises(ValueError, match="object object"):
        failing(app, ValueError(object())).get(timeout=0)


def test_an_error_with_long_arguments_keeps_its_class(app: Bench) -> None:
    with pytest.raises(Declined, match="xxx"):
        failing(app, Declined("x" * 50_000)).get(timeout=0)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_would_end_the_caller_is_a_task_failure(app: Bench, error: BaseException) -> None:
    with pytest.raises(TaskFailure, match=type(error).__name__):
        failing(app, error).get(timeout=0)


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.print", "subprocess.Popen", "json", "", "..", "antigravity.X"]
)
def test_a_stored_name_can_neither_import_nor_call_anything(name: str) -> None:
    before = set(sys.modules)
    record = Record(id="x", state=State.FAILURE, error_type=name, error="e", error_args='["true"]')
    assert type(failure(record)) is TaskFailure
    assert set(sys.modules) == before


def test_a_rejected_task_raises_with_its_reason(app: Bench) -> None:
    with pytest.raises(TaskRevoked, match="no such customer"):
        failing(app, Reject("no such customer")).get(timeout=0)


# ---- revoke, forget


def test_a_revoked_task_is_not_run_and_says_so(plain: CloudQ) -> None:
    runs: list[int] = []
    task: Any = plain.task(name="t")(lambda: runs.append(1))
    result = task.delay()
    assert result.revoke()
    assert result.state is State.PENDING
    drain(plain)
    assert (runs, result.state) == ([], State.REVOKED)
    with pytest.raises(TaskRevoked, match="revoked"):
        result.get(timeout=0)


def test_a_task_can_be_revoked_before_it_is_sent(app: Bench) -> None:
    task: Any = app.task(name="t")(lambda: 1)
    app.AsyncResult("given").revoke()
    result = task.apply_async(task_id="given")
    app.work()
    assert result.state is State.REVOKED


def test_an_ended_task_cannot_be_revoked(app: Bench) -> None:
    task: Any = app.task(lambda: 42)
    result = task.delay()
    app.work()
    assert not result.revoke()
    assert (result.get(timeout=0), app.record(result).revoked) == (42, False)


def test_a_task_that_is_revoked_while_it_waits_for_a_retry_is_not_run_again(app: Bench) -> None:
    runs: list[int] = []

    @app.task(autoretry_for=[OSError], track_started=True)
    def task() -> None:
        runs.append(1)
        raise OSError

    result = task.delay()
    app.step()
    assert result.revoke()
    app.work()
    assert (len(runs), app.state(result)) == (1, State.REVOKED)


def test_forget_deletes_the_record(app: Bench) -> None:
    task: Any = app.task(lambda: 42)
    result = task.delay()
    app.work()
    assert result.ready()
    result.forget()
    assert (result.state, app.results.record(result.id)) == (State.PENDING, None)


def test_results_expire() -> None:
    with Bench(result_expires=100.0) as app:
        task: Any = app.task(lambda: 42)
        result = task.delay()
        app.work()
        app.clock.ahead += 99
        assert app.state(result) is State.SUCCESS
        app.clock.ahead += 2
        assert app.state(result) is State.PENDING


# ---- records


def test_a_record_lies_in_an_item_without_its_defaults() -> None:
    record = Record(id="x", state=State.SUCCESS, task="t", value="3", retries=1)
    item = to_item(record, 5.0)
    assert dict(item.fields) == {"state": "SUCCESS", "task": "t", "value": "3", "retries": 1}
    assert from_item(item) == record
    assert [type(value) for value in item.fields.values()] == [str, str, str, int]


def test_fields_of_a_newer_release_are_passed_over() -> None:
    item = to_item(Record(id="x", state=State.SUCCESS), None)
    newer = replace(item, fields={**item.fields, "shard": 3})
    assert from_item(newer) == Record(id="x", state=State.SUCCESS)


def test_a_later_delivery_has_a_larger_fence() -> None:
    tokens = [fence(0, 1), fence(0, 2), fence(0, 2**30), fence(1, 0), fence(1, 1), fence(2, 1)]
    assert tokens == sorted(set(tokens))


def test_an_end_stands_even_against_a_later_delivery(app: Bench) -> None:
    ended = Record(id="x", state=State.SUCCESS, value="1", fence=fence(0, 1))
    assert app.results.advance(ended) is None
    later = Record(id="x", state=State.FAILURE, error="late", fence=fence(0, 9))
    assert app.results.advance(later) == ended
    assert app.results.record("x") == ended


def test_a_store_that_does_not_say_what_stands_there_has_not_taken_the_record(app: Bench) -> None:
    def silent(key: Key, change: Change) -> Item:
        raise ConditionFailed(None)

    app.store.update = silent  # type: ignore[method-assign]
    standing = app.results.advance(Record(id="x", state=State.SUCCESS))
    assert standing is not None
    assert not standing.terminal


def test_a_still_later_call_that_comes_in_between_is_not_replaced(app: Bench) -> None:
    first, second, third = (
        Record(id="x", state=State.SUCCESS, value=str(n), call=f"{n:022x}") for n in range(1, 4)
    )
    app.results.store([first])
    update, asked = app.store.update, []

    def raced(key: Key, change: Change) -> Item:
        asked.append(key)
        if len(asked) == 2:  # the first was refused
            app.results.store([third])
        return update(key, change)

    app.store.update = raced  # type: ignore[method-assign]
    assert app.results.advance(second) == third
    assert app.results.record("x") == third


def test_a_revocation_that_is_kept_for_ever_stays_so_with_a_later_state(app: Bench) -> None:
    app.store.put([Item(key=key("x"), fields={"revoked": True}, expires=None)])
    item = make(app.results, key("x"), advance(Record(id="x", state=State.STARTED), 9e9))
    assert item.expires is None
    assert from_item(item) == Record(id="x", state=State.STARTED, revoked=True)


def test_what_keeps_earlier_deliveries_out_of_a_bundle_names_its_task(app: Bench) -> None:
    task = app.task(name="t")(lambda: None)
    result = app.publish([task.prepare() for _ in range(2)], bundle=2)[0]
    end = Record(id=result.id, state=State.SUCCESS, task="t", value="1", fence=fence(1, 1))
    assert app.results.advance(end) is None
    item = app.store.get([key(end.id)], consistent=True)[key(end.id)]
    assert from_item(item) == Record(id=end.id, state=State.STARTED, task="t", fence=end.fence)


class Refused(Exception):
    """An exception that cannot be made anew from its arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__("refused")
        self.code = code


def test_an_eager_result_raises_the_same_whoever_asks_and_can_be_revoked_and_forgotten() -> None:
    app = CloudQ("eager", broker="memory://eager-results", task_always_eager=True, max_retries=0)

    @app.task
    def refuses() -> None:
        raise Refused(code=4)

    async def waits() -> None:
        await result

    result = refuses.delay()
    with pytest.raises(Refused) as got:
        result.get()
    with pytest.raises(Refused) as awaited:
        asyncio.run(waits())
    assert awaited.value is got.value
    assert awaited.value.code == 4
    assert not result.revoke()
    assert not result.revoke(terminate=True)
    with pytest.raises(ConfigurationError):
        result.revoke(terminate=True, signal="SIGNONE")
    result.forget()
    assert result.failed()
