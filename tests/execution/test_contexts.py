"""Each call has a context of its own, and what leaves its code ends no worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, State, Task, current_request, signals
from cloudq.testing import drain, worker
from cloudq.testing.waiting import PATIENCE

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Unknown(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"user {name} is unknown")


class Told(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"told {self.name}"


class Own(BaseException):
    """An error of a library past `except Exception`, as gevent's timeouts and pytest's ends are."""


LEAVING = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Own]


def leaving(error: BaseException) -> type[Task[..., Any]]:
    class Leaving(Task[..., Any]):
        def on_success(self, *args: Any) -> None:
            raise error

    return Leaving


@pytest.fixture(params=LEAVING, ids=lambda kind: kind.__name__)
def error(request: pytest.FixtureRequest) -> BaseException:
    return request.param(9)  # one for each test: an error keeps what it was raised beside


def test_what_a_call_sets_no_other_sees(plain: CloudQ) -> None:
    @plain.task(name="enter")
    def enter() -> None:
        tenant.set("acme")

    @plain.task(name="who")
    def who() -> str:
        return tenant.get()

    @plain.task(name="awho")
    async def awho() -> str:
        return tenant.get()

    with worker(plain, threads=1) as running:
        enter.delay()
        running.run_until_idle()
        results = [who.delay(), awho.delay()]
        running.run_until_idle()
        assert [r.get(timeout=PATIENCE) for r in results] == ["nobody", "nobody"]
    assert who.apply().get() == "nobody"
    enter.apply()
    assert tenant.get() == "nobody"


def test_what_a_middleware_sets_reaches_its_task(plain: CloudQ) -> None:
    def named(call: Callable[[Any], object]) -> Callable[[Any], object]:
        def run(context: Any) -> object:
            tenant.set(context.request.task)
            return call(context)

        return run

    plain.middleware.append(named)
    plain.task(name="sync")(lambda: tenant.get())

    @plain.task(name="coroutine")
    async def coroutine() -> str:
        return tenant.get()

    with worker(plain, threads=2) as running:
        results = [plain.send_task("sync"), coroutine.delay()]
        running.run_until_idle()
        assert [r.get(timeout=PATIENCE) for r in results] == ["sync", "coroutine"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_who_leaves_in_the_test_kit_has_failed(plain: CloudQ, kind: type[BaseException]) -> None:
    @plain.task(name="leave", max_retries=0)
    def leave() -> None:
        raise kind(3)

    @plain.task(name="aleave", max_retries=0)
    async def aleave() -> None:
        raise kind(3)

    @plain.task(name="after")
    async def after() -> int:
        return 1

    with worker(plain, threads=1) as running:
        left = [leave.delay(), aleave.delay()]
        last = after.delay()
        running.run_until_idle(timeout=PATIENCE)
        assert [r.state for r in left] == [State.FAILURE] * 2
        assert last.get(timeout=PATIENCE) == 1


def test_a_hook_that_leaves_is_logged(
    plain: CloudQ, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    @plain.task(name="work", base=leaving(error))
    def work() -> str:
        return "value"

    result = work.delay()
    drain(plain)
    assert result.get(timeout=PATIENCE) == "value"
    assert "a hook raised" in caplog.text


def test_a_key_or_a_value_that_leaves_fails_its_call(plain: CloudQ, error: BaseException) -> None:
    def raises(*args: Any) -> Any:
        raise error

    @dataclass
    class Value:
        a: int

        def __getattribute__(self, name: str) -> Any:
            return raises() if name == "a" else super().__getattribute__(name)

    plain.task(name="keyed", idempotent=raises)(lambda: 1)
    plain.task(name="valued")(lambda: Value(1))
    ends = [plain.send_task(name) for name in ("keyed", "valued")]
    drain(plain)
    assert [end.state for end in ends] == [State.FAILURE, State.FAILURE]


@pytest.mark.parametrize("method", ["__str__", "__reduce__", "__getstate__", "__cause__", "args"])
def test_an_exception_whose_own_methods_leave_fails_its_call(
    plain: CloudQ, method: str, error: BaseException
) -> None:
    def leave(*given: Any) -> Any:
        raise error

    own: Any = leave if method in ("__str__", "__reduce__", "__getstate__") else property(leave)
    odd = type("Odd", (Exception,), {method: own})

    @plain.task(name="odd")
    def raises() -> None:
        raise odd

    plain.task(name="work")(lambda: 1)
    ends = [plain.send_task(name) for name in ("odd", "work")]
    drain(plain)
    assert [end.state for end in ends] == [State.FAILURE, State.SUCCESS]


def test_what_leaves_beside_an_exception_that_cannot_be_shown_ends_nothing(
    plain: CloudQ, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(*given: Any) -> Any:
        raise error

    odd = type("Odd", (Exception,), {"__cause__": property(leave)})

    def leaves(*given: Any, **named: Any) -> Any:
        left = type(error)(9)
        left.__context__ = odd()
        raise left

    hooked = type("Hooked", (Task,), {"on_success": leaves})
    task: Any = plain.task(name="work", base=hooked)(lambda: "value")
    signals.task_received.connect(leaves)
    try:
        result = task.delay()
        drain(plain)
    finally:
        signals.task_received.disconnect(leaves)
    assert result.get(timeout=PATIENCE) == "value"
    assert "a receiver of task_received tried to end the process" in caplog.text
    assert "a hook raised" in caplog.text


def test_an_exception_without_a_text_is_tried_again_although_its_retry_is_told(
    plain: CloudQ,
) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    told: list[str] = []

    class Telling(Task[..., Any]):
        def on_retry(self, *args: Any) -> None:
            told.append("retry")

    options: Any = {"max_retries": 1, "default_retry_delay": 0.0}

    @plain.task(name="odd", base=Telling, bind=True, autoretry_for=[Odd], **options)
    def once(self: Any) -> int:
        if not self.request.retries:
            raise Odd
        return 2

    result = once.delay()
    drain(plain)
    assert (result.get(timeout=0), told) == (2, ["retry"])


def test_a_receiver_that_leaves_is_logged(
    plain: CloudQ, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    task: Any = plain.task(name="work")(lambda: "value")

    def leave(**told: Any) -> None:
        raise error

    for signal in (signals.task_received, signals.task_success, signals.task_postrun):
        signal.connect(leave)
    try:
        result = task.delay()
        drain(plain)
    finally:
        for signal in (signals.task_received, signals.task_success, signals.task_postrun):
            signal.disconnect(leave)
    assert result.get(timeout=PATIENCE) == "value"
    assert "tried to end the process" in caplog.text


@pytest.mark.parametrize(
    ("error", "text"), [(Unknown("bob"), "user bob is unknown"), (Told("bob"), "told bob")]
)
def test_the_text_of_an_error_comes_back_as_it_was(
    plain: CloudQ, error: Exception, text: str
) -> None:
    @plain.task(name="look", max_retries=0)
    def look() -> None:
        raise error

    result = look.delay()
    drain(plain)
    with pytest.raises(type(error)) as caught:
        result.get(timeout=PATIENCE)
    assert str(caught.value) == text


class Awaited(Task[..., Any]):
    async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None: ...


def test_a_hook_or_receiver_that_nobody_would_await_is_refused(plain: CloudQ) -> None:
    with pytest.raises(ConfigurationError, match="task work: its hook on_success is async"):
        plain.task(name="work", base=Awaited)(lambda: None)

    async def fails(task: Any, *given: Any) -> None: ...

    told = CloudQ(broker="memory://", task_annotations={"work": {"on_failure": fails}})
    with pytest.raises(ConfigurationError, match="task work: its hook on_failure is async"):
        told.task(name="work")(lambda: None)

    async def hear(sender: Any, **more: Any) -> None: ...

    with pytest.raises(TypeError, match=r"task_success.connect: .*hear.* is async"):
        signals.task_success.connect(hear)
    with pytest.raises(TypeError, match=r"task_success.connect: .*hear.* is async"):
        signals.task_success.connect(sender="work")(hear)


@pytest.mark.parametrize("bundle", [None, 2])
def test_what_a_task_writes_into_its_request_is_its_own(bundle: int | None) -> None:
    app = CloudQ("own", broker="memory://own", backend="memory://own")
    seen: list[tuple[dict[str, str], list[int], dict[str, int]]] = []

    @app.task
    def write(*args: int, **kwargs: int) -> None:
        request = current_request.get()
        assert request is not None
        headers: Any = request.headers
        seen.append((dict(headers), list(request.args), dict(request.kwargs)))
        headers["mine"] = "x"

    with app:
        results = app.publish([write.prepare() for _ in range(2)], bundle=bundle)
        drain(app)
        assert [result.get() for result in results] == [None, None]
        write.delay()
        drain(app)
    assert seen == [({}, [], {})] * 3
