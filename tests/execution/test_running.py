"""Calling a task: eagerly, in asyncio, within time limits, through middleware."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from cloudq import (
    Call,
    CloudQ,
    ConfigurationError,
    Context,
    EagerResult,
    Ignore,
    InvalidArguments,
    Reject,
    SoftTimeLimitExceeded,
    State,
    Task,
    TaskRevoked,
    TimeLimitExceeded,
)
from cloudq.execution.executor import run_coroutine
from cloudq.execution.interrupt import Alarm, Alarms, Interruptible, disarm, thread_alarm
from cloudq.testing import eventually
from tests.support.bench import Bench

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture
def eager() -> Iterator[CloudQ]:
    # A broker that does not exist: nothing may be connected.
    with CloudQ("eager", broker="nowhere://", task_always_eager=True) as made:
        yield made


# ---- eager


def test_an_eager_call_runs_at_the_call(eager: CloudQ) -> None:
    task: Any = eager.task(lambda a: a + 1)
    result = task.delay(1)
    assert isinstance(result, EagerResult)
    assert (result.get(), result.state, result.ready(), result.successful()) == (
        2,
        State.SUCCESS,
        True,
        True,
    )


def test_an_eager_call_leaves_nothing_in_the_store() -> None:
    """Also where the start of each call is recorded."""
    with Bench(task_always_eager=True, task_track_started=True) as bench:
        assert bench.task(lambda: 1).delay().get() == 1
        assert not bench.store.calls


def test_an_eager_failure_waits_for_get(eager: CloudQ) -> None:
    error = ValueError("bad")

    @eager.task
    def fails() -> None:
        raise error

    result = fails.delay()
    assert (result.state, result.failed(), result.result) == (State.FAILURE, True, error)
    assert "ValueError: bad" in (result.traceback or "")
    assert result.get(propagate=False) is error
    with pytest.raises(ValueError, match="bad") as caught:
        result.get()
    assert caught.value is error


def test_an_eager_failure_is_raised_at_the_call_where_the_app_says_so(eager: CloudQ) -> None:
    eager.configure(task_eager_propagates=True)

    @eager.task
    def fails() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fails.delay()
    with pytest.raises(ValueError, match="bad"):
        eager.publish([fails.prepare()])
    assert fails.apply().failed()


def test_eager_retries_follow_at_once(eager: CloudQ) -> None:
    seen: list[int] = []

    @eager.task(bind=True, autoretry_for=[OSError], default_retry_delay=1000.0)
    def flaky(self: Task[..., Any]) -> str:
        seen.append(self.request.retries)
        if self.request.retries < 2:
            raise OSError
        return "done"

    assert flaky.delay().get() == "done"
    assert seen == [0, 1, 2]


def test_eager_arguments_go_over_the_wire_as_others_do(eager: CloudQ) -> None:
    @eager.task
    def same(a: object) -> object:
        return a

    assert same.delay((1, {2})).get() == [1, {2}]
    with pytest.raises(InvalidArguments):
        same.delay()  # type: ignore[call-arg]


def test_an_eager_task_knows_that_it_is(eager: CloudQ) -> None:
    @eager.task(bind=True)
    def knows(self: Task[..., Any]) -> tuple[bool, str]:
        return self.request.is_eager, self.request.id

    assert knows.apply_async(task_id="given").get() == [True, "given"]


def test_eager_publish_and_send_task(eager: CloudQ) -> None:
    @eager.task(name="double")
    def double(a: int) -> int:
        return a * 2

    assert [r.get() for r in eager.publish(double.prepare(n) for n in range(3))] == [0, 2, 4]
    assert eager.send_task("double", [4]).get() == 8
    with pytest.raises(ConfigurationError, match="'other' is not registered, so it cannot run ea"):
        eager.send_task("other")


@pytest.mark.parametrize(
    ("raised", "state"),
    [(Ignore(), State.SUCCESS), (Reject("no"), State.REJECTED)],
)
def test_eager_ignore_and_reject(eager: CloudQ, raised: Exception, state: State) -> None:
    @eager.task
    def raises() -> None:
        raise raised

    assert raises.delay().state is state


def test_an_eager_requeue_is_no_success(eager: CloudQ) -> None:
    @eager.task
    def raises() -> None:
        raise Reject("later", requeue=True)

    result = raises.delay()
    assert result.state is State.REJECTED
    with pytest.raises(TaskRevoked, match="later"):
        result.get()


def test_an_ignored_eager_result_is_none_and_its_failure_is_seen(eager: CloudQ) -> None:
    @eager.task(ignore_result=True)
    def run(fail: bool) -> int:
        if fail:
            raise ValueError("bad")
        return 3

    assert run.delay(False).get() is None
    with pytest.raises(ValueError, match="bad"):
        run.delay(True).get()


def test_apply_needs_no_broker(app: Bench) -> None:
    task: Any = app.task(lambda a: a + 1)
    assert task.apply([1]).get() == 2
    assert not app.wire.calls
    assert not app.store.calls


# ---- asyncio


async def answer(value: object) -> object:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


def test_a_coroutine_is_run_with_and_without_a_running_loop() -> None:
    async def main() -> object:
        return run_coroutine(answer(3))

    assert run_coroutine(answer(2)) == 2
    assert asyncio.run(main()) == 3


def test_an_error_of_a_coroutine_comes_out_also_inside_a_running_loop() -> None:
    async def main() -> None:
        run_coroutine(answer(ValueError("bad")))

    with pytest.raises(ValueError, match="bad"):
        asyncio.run(main())


def test_apply_of_an_async_task_inside_a_running_loop(app: Bench) -> None:
    @app.task(bind=True)
    async def task(self: Task[..., Any], fail: bool) -> tuple[str, str]:
        await asyncio.sleep(0)
        if fail:
            raise ValueError("bad")
        return self.request.id, tenant.get()

    async def main() -> None:
        tenant.set("seven")
        assert task.apply([False], task_id="given").get() == ["given", "seven"]
        with pytest.raises(ValueError, match="bad"):
            task.apply([True]).get()

    asyncio.run(main())


def test_context_variables_reach_a_task_and_end_with_an_async_one(app: Bench) -> None:
    @app.task
    async def changes() -> str:
        before = tenant.get()
        tenant.set("changed")
        return before

    token = tenant.set("outer")
    assert changes.apply().get() == "outer"
    assert tenant.get() == "outer"
    tenant.reset(token)


def test_a_cancelled_async_task_is_a_failure(app: Bench) -> None:
    @app.task
    async def cancels() -> None:
        raise asyncio.CancelledError

    assert cancels.apply().failed()


# ---- time limits


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_the_soft_limit_is_raised_inside_a_task_that_may_clean_up(app: Bench) -> None:
    @app.task(soft_time_limit=0.05)
    def slow() -> str:
        try:
            spin(10)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "too late"

    assert slow.apply().get() == "cleaned up"


def test_the_soft_limit_is_raised_inside_an_async_task(app: Bench) -> None:
    @app.task(soft_time_limit=0.05)
    async def slow() -> str:
        try:
            await asyncio.sleep(10)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            return "cleaned up"
        return "too late"

    assert slow.apply().get() == "cleaned up"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_uncaught_soft_limit_is_the_failure(app: Bench, kind: str) -> None:
    def sync() -> None:
        spin(10)

    async def coroutine() -> None:
        await asyncio.sleep(10)

    task: Any = app.task(soft_time_limit=0.05)(sync if kind == "sync" else coroutine)
    with pytest.raises(SoftTimeLimitExceeded, match="past its soft time limit"):
        task.apply().get()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_without_a_supervisor_the_hard_limit_is_raised_too(app: Bench, kind: str) -> None:
    def sync() -> None:
        try:
            spin(10)
        except SoftTimeLimitExceeded:
            spin(10)

    async def coroutine() -> None:
        try:
            await asyncio.sleep(10)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(10)

    task: Any = app.task(sync if kind == "sync" else coroutine)
    with pytest.raises(TimeLimitExceeded):
        task.apply(soft_time_limit=0.05, time_limit=0.1).get()


def test_a_worker_leaves_the_hard_limit_to_its_supervisor(app: Bench) -> None:
    @app.task(time_limit=0.01)
    def slow() -> str:
        spin(0.1)
        return "done"

    result = slow.delay()
    app.step()
    assert result.get(timeout=0) == "done"


def test_limits_are_the_calls_the_tasks_or_the_apps() -> None:
    with Bench(task_time_limit=100.0, task_soft_time_limit=90.0) as app:
        seen: list[tuple[Any, Any]] = []

        def note(self: Task[..., Any]) -> None:
            seen.append((self.request.soft_time_limit, self.request.time_limit))

        app.task(name="app", bind=True)(note).apply()
        own = app.task(name="own", bind=True, time_limit=50.0, soft_time_limit=40.0)(note)
        own.apply()
        own.apply(time_limit=5.0, soft_time_limit=4.0)
        assert seen == [(90.0, 100.0), (40.0, 50.0), (4.0, 5.0)]


def test_a_task_that_ends_in_time_is_left_alone(app: Bench) -> None:
    @app.task(soft_time_limit=0.5)
    def quick() -> int:
        return 1

    for _ in range(20):
        assert quick.apply().get() == 1
    spin(0.6)


def test_a_limit_that_is_reached_as_a_task_ends_changes_nothing(app: Bench) -> None:
    """It is raised where Python looks next: as the alarms begin to be cancelled."""
    rung: list[str] = []

    def ring(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is disarm.__code__:
            rung.append("rung")
            raise SoftTimeLimitExceeded  # and Python asks this function no more

    @app.task(soft_time_limit=60.0, time_limit=90.0)
    def ends() -> str:
        sys.setprofile(ring)
        return "done"

    assert ends.apply().get() == "done"
    assert rung == ["rung"]


def test_an_alarm_that_is_cancelled_never_rings() -> None:
    alarm = thread_alarm(SoftTimeLimitExceeded)
    alarm.cancel()
    alarm.ring()
    spin(0.01)


def test_a_ring_that_has_not_arrived_is_taken_back_by_the_cancel() -> None:
    rung: list[str] = []
    alarm = Alarm(lambda: rung.append("rung"), lambda: rung.append("taken back"))
    alarm.ring()
    alarm.cancel()
    alarm.ring()
    assert rung == ["rung", "taken back"]


RUNG_AND_PROFILED = """
import sys
from cloudq.errors import SoftTimeLimitExceeded
from cloudq.execution.interrupt import disarm, thread_alarm

alarm = thread_alarm(SoftTimeLimitExceeded)
try:
    alarm.ring()
    while True:
        pass
except SoftTimeLimitExceeded:
    disarm([alarm])
calls = []


def called():
    pass


sys.setprofile(lambda *_: calls.append(1))
for _ in range(10):
    called()
sys.setprofile(None)
assert calls
"""


def test_a_program_can_be_profiled_after_an_alarm_rang() -> None:
    # On Python 3.11 it never ended: an exception taken back stayed "pending" for the process.
    subprocess.run([sys.executable, "-c", RUNG_AND_PROFILED], check=True, timeout=60)


def test_alarms_ring_in_the_order_of_their_times() -> None:
    rung: list[str] = []
    due: dict[str, tuple[float, float]] = {}  # at the earliest and at the latest
    alarms = Alarms()

    for after, name in ((0.06, "last"), (0.0, "first"), (0.03, "middle")):
        asked = time.monotonic()
        alarms.set(after, Alarm(lambda name=name: rung.append(name), lambda: None))
        due[name] = (asked + after, time.monotonic() + after)
    eventually(lambda: len(rung) == 3)
    # Where this thread was kept waiting between two of them, the one set later is due later.
    for earlier, later in itertools.combinations(rung, 2):
        assert due[earlier][0] <= due[later][1], rung


def test_no_thread_is_made_before_the_first_alarm() -> None:
    before = threading.active_count()
    Alarms()
    assert threading.active_count() == before


def test_a_cancelled_alarm_holds_nothing_of_what_it_was_for() -> None:
    """That is a batch of Lambda's, say, with megabytes of messages, for as long as its timeout."""

    class Batch:
        def late(self) -> None: ...

    batch, alarms = Batch(), Alarms()
    held = weakref.ref(batch)
    alarm = Alarm(batch.late)
    alarms.set(3600.0, alarm)
    alarm.cancel()
    del batch
    gc.collect()
    assert held() is None


def test_the_thread_of_the_alarms_ends_when_none_is_left_and_another_is_made() -> None:
    before = threading.active_count()
    alarms, rung = Alarms(idle=0.01), threading.Event()
    far = Alarm(rung.set)
    alarms.set(3600.0, far)
    far.cancel()
    eventually(lambda: threading.active_count() == before)
    alarms.set(0.0, Alarm(rung.set))
    assert rung.wait(60.0)
    eventually(lambda: threading.active_count() == before)


def test_a_cancellation_from_outside_stays_one() -> None:
    async def main() -> str:
        async def waits() -> None:
            await Interruptible(asyncio.sleep(10), SoftTimeLimitExceeded)

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "went on"

    assert asyncio.run(main()) == "cancelled"


def test_after_its_soft_limit_a_coroutine_can_still_be_cancelled() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def works() -> None:
            try:
                await asyncio.sleep(10)
            except SoftTimeLimitExceeded:
                seen.append("soft")
            await asyncio.sleep(10)

        async def waits() -> None:
            guarded = Interruptible(works(), SoftTimeLimitExceeded)
            alarm = guarded.alarm()
            asyncio.get_running_loop().call_soon(alarm.ring)
            await guarded

        task = asyncio.create_task(waits())
        while not seen:
            await asyncio.sleep(0.001)
        assert task.cancelling() == 0
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            seen.append("cancelled")
        return seen

    assert asyncio.run(main()) == ["soft", "cancelled"]


# ---- middleware


def test_middleware_is_called_in_order_with_the_first_outermost() -> None:
    seen: list[str] = []

    def layer(name: str) -> Any:
        def middleware(call: Call) -> Call:
            def run(context: Context) -> object:
                seen.append(f"{name} before {context.request.task} {list(context.args)}")
                try:
                    return call(context)
                finally:
                    seen.append(f"{name} after")

            return run

        return middleware

    with Bench(middleware=[layer("a"), layer("b")]) as app:

        @app.task(name="t")
        async def task(value: int) -> int:
            seen.append("task")
            return value

        result = task.delay(3)
        app.work()
        assert result.get(timeout=0) == 3
    assert seen == ["a before t [3]", "b before t [3]", "task", "b after", "a after"]


def test_middleware_may_change_the_arguments_and_the_value() -> None:
    def doubled(call: Call) -> Call:
        def run(context: Context) -> object:
            value: Any = call(replace(context, args=[context.args[0] * 10]))
            return value + 1

        return run

    with Bench(middleware=[doubled]) as app:
        task: Any = app.task(lambda value: value)
        assert task.apply([3]).get() == 31


def test_what_middleware_raises_is_the_tasks_outcome() -> None:
    def refuses(call: Call) -> Call:
        def run(context: Context) -> object:
            raise PermissionError("not you")

        return run

    with Bench(middleware=[refuses]) as app:
        task: Any = app.task(lambda: 1)
        result = task.delay()
        app.work()
        with pytest.raises(PermissionError, match="not you"):
            result.get(timeout=0)
