"""The kit ends tasks at hard limits, and runs coroutines on one loop, as a worker does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from cloudq import CloudQ, Task, TimeLimitExceeded
from cloudq.testing import drain, run_until_idle, worker

Way = Callable[[CloudQ], object] | None
WAYS: list[Way] = [drain, run_until_idle, None]


def ends(way: Way, app: CloudQ, *tasks: Task[[], Any]) -> list[tuple[str, Any]]:
    """Run tasks in a way of the kit, None for its worker; the state and the value of each."""
    with nullcontext() if way else worker(app, threads=1) as running:
        sent = [task.delay() for task in tasks]
        if running is not None:
            running.run_until_idle(timeout=20)
        elif way is not None:
            way(app)
        return [(result.state, result.get(timeout=0, propagate=False)) for result in sent]


@pytest.mark.parametrize("way", WAYS)
def test_a_hard_limit_ends_a_task_and_the_next_one_runs(way: Way) -> None:
    app = CloudQ("kit", broker="memory://kit-limits", backend="memory://kit-limits", max_retries=0)

    @app.task(time_limit=0.2)
    def endless() -> None:
        while True:
            time.sleep(0.01)

    @app.task(time_limit=0.2)
    async def waiting() -> None:
        await asyncio.Event().wait()

    @app.task
    def after() -> str:
        return "ran"

    states = ends(way, app, endless, waiting, after)
    assert [state for state, _ in states] == ["FAILURE", "FAILURE", "SUCCESS"]
    assert [type(value) for _, value in states] == [TimeLimitExceeded, TimeLimitExceeded, str]


@pytest.mark.parametrize("way", WAYS)
def test_coroutines_share_a_loop_which_what_they_leave_behind_does_not_stop(
    way: Way,
) -> None:
    app = CloudQ("kit", broker="memory://kit-loop", backend="memory://kit-loop", max_retries=0)
    left: list[Any] = []

    @app.task
    async def leave() -> str:
        loop = asyncio.get_running_loop()
        left.append((loop, loop.create_task(later())))
        raising = loop.create_task(exits())
        await asyncio.wait([raising])
        return type(raising.exception()).__name__

    async def later() -> str:
        await asyncio.sleep(0.01)
        return "done"

    async def exits() -> None:
        raise SystemExit(7)

    @app.task
    async def look() -> list[Any]:
        loop, kept = left[0]
        return [loop is asyncio.get_running_loop(), await kept]

    assert ends(way, app, leave, look) == [("SUCCESS", "SystemExit"), ("SUCCESS", [True, "done"])]
