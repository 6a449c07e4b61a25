"""Waiting for results ends: by a wake-up or without one, in threads and in coroutines."""

from __future__ import annotations

import asyncio
import builtins
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, State, TaskFailure, chain, wait_for
from cloudq.driver import Item, Key, StoreLimits
from cloudq.errors import BackendError
from cloudq.results.pauses import Pauses
from cloudq.results.record import Record
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE, eventually
from tests.support.bench import Bench

# What nobody wakes is seen after a second; the machine may be busy.
SOON = 5.0

# Runs what is queued, as a worker whose wake-ups reach nobody else.
ELSEWHERE = """
import sys, time
from cloudq import CloudQ
from cloudq.testing import drain
app = CloudQ("waiting", broker=sys.argv[1])
app.task(name="double")(lambda n: 2 * n)
print("ready", flush=True)
sys.stdin.readline()
drain(app)
print("done", flush=True)
"""


def double(n: int) -> int:
    return 2 * n


def first(numbers: list[int]) -> int:
    return next(iter(numbers))


@pytest.fixture
def file_app(tmp_path: Path) -> Iterator[CloudQ]:
    with CloudQ("waiting", broker=f"sqlite:///{tmp_path}/cloudq.db") as app:
        app.task(name="double")(double)
        yield app


@pytest.fixture
def tmp_path_of_sockets() -> Iterator[Path]:
    """A directory with a short name: a socket's has room for about 100 bytes."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def elsewhere(file_app: CloudQ, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with another TMPDIR, which runs what is queued when it is told to."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, file_app.conf.broker],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate("\n", timeout=PATIENCE)


def finish(process: subprocess.Popen[str]) -> float:
    """Have the process run what is queued, and return when it had."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    return time.monotonic()


class TestWithoutAWakeUp:
    def test_get_sees_what_a_process_with_another_tmpdir_has_written(
        self, file_app: CloudQ, elsewhere: subprocess.Popen[str]
    ) -> None:
        result = file_app.tasks["double"].delay(21)
        seen = list[float]()

        def wait() -> None:
            assert result.get(timeout=PATIENCE) == 42
            seen.append(time.monotonic())

        waiting = threading.Thread(target=wait)
        waiting.start()
        done = finish(elsewhere)
        waiting.join(PATIENCE)
        assert seen
        assert seen[0] - done < SOON

    def test_a_coroutine_sees_it(self, file_app: CloudQ, elsewhere: subprocess.Popen[str]) -> None:
        result = file_app.tasks["double"].delay(21)

        async def main() -> float:
            done = asyncio.ensure_future(asyncio.to_thread(finish, elsewhere))
            assert await asyncio.wait_for(result, PATIENCE) == 42
            return time.monotonic() - await done

        assert asyncio.run(main()) < SOON

    def test_many_are_seen(self, file_app: CloudQ, elsewhere: subprocess.Popen[str]) -> None:
        results = [file_app.tasks["double"].delay(n) for n in range(20)]
        ended = list[Record]()
        waiting = threading.Thread(target=lambda: ended.extend(wait_for(results)), daemon=True)
        waiting.start()
        finish(elsewhere)
        waiting.join(SOON)
        assert [record.value for record in ended] == [str(2 * n) for n in range(20)]

    def test_a_receiver_sees_what_another_has_sent(self, file_app: CloudQ, tmp_path: Path) -> None:
        file_app.tasks["double"].delay(0)
        (first,) = file_app.broker.receive("default", count=1, wait=0.0, lease=60.0)
        file_app.broker.ack([first])
        sent = (
            "import sys; from cloudq import CloudQ; "
            "CloudQ('waiting', broker=sys.argv[1]).send_task('double', [1])"
        )
        sender = subprocess.Popen(
            [sys.executable, "-c", sent, file_app.conf.broker],
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        try:
            start = time.monotonic()
            (found,) = file_app.broker.receive("default", count=1, wait=PATIENCE, lease=60.0)
            file_app.broker.ack([found])
            assert time.monotonic() - start < PATIENCE / 2
        finally:
            assert sender.wait(PATIENCE) == 0

    def test_get_stands_that_the_sockets_are_cleaned_away(
        self, tmp_path: Path, tmp_path_of_sockets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path_of_sockets
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        with CloudQ("waiting", broker=f"sqlite:///{tmp_path}/cloudq.db") as app:
            task: Any = app.task(lambda: 42)
            first, second = task.delay(), task.delay()
            got = list[int]()
            waiting = threading.Thread(target=lambda: got.append(first.get(PATIENCE)))
            waiting.start()
            sockets = eventually(lambda: list(root.rglob("cloudq-*/*/*")))
            shutil.rmtree(sockets[0].parents[1])
            drain(app)
            waiting.join(PATIENCE)
            assert got == [42]
            # Those who begin to wait now make the directory anew.
            assert second.get(timeout=PATIENCE) == 42
            assert app.AsyncResult("never").state == State.PENDING

    def test_who_cannot_listen_still_sees_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with CloudQ("waiting", broker=f"sqlite:///{tmp_path}/cloudq.db") as app:
            task: Any = app.task(lambda: 42)
            result = task.delay()
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
            later = threading.Timer(0.2, drain, [app])
            later.start()
            assert result.get(timeout=PATIENCE) == 42
            later.join()


class TestInCoroutines:
    def test_many_wait_and_hold_no_thread_of_the_executor(self, file_app: CloudQ) -> None:
        async def main() -> None:
            waiting = [asyncio.ensure_future(_of(file_app, f"never-{n}")) for n in range(100)]
            await asyncio.sleep(0)
            sent = await asyncio.wait_for(file_app.tasks["double"].adelay(1), PATIENCE)
            assert len([t for t in threading.enumerate() if t.name == "results"]) == 1
            for one in waiting:
                one.cancel()
            ends = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(end) for end in ends} == {asyncio.CancelledError}
            await asyncio.to_thread(drain, file_app)
            assert await sent == 2

        asyncio.run(main())
        eventually(lambda: not [t for t in threading.enumerate() if t.name == "results"])

    def test_asyncio_run_ends_beside_one_that_waits(self, file_app: CloudQ) -> None:
        async def main() -> None:
            asyncio.ensure_future(_of(file_app, "never"))  # noqa: RUF006 (run() cancels it)
            await asyncio.sleep(0.05)

        start = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - start < SOON

    def test_a_timeout_ends_the_wait_and_another_may_follow(self, file_app: CloudQ) -> None:
        result = file_app.tasks["double"].delay(4)

        async def main() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(result, 0.05)
            await asyncio.to_thread(drain, file_app)
            assert await asyncio.wait_for(result, PATIENCE) == 8

        asyncio.run(main())

    def test_one_who_comes_later_is_not_kept_waiting_by_the_others(self, app: Bench) -> None:
        """The store wakes nobody, and the others' pauses are long."""
        long = 2 * PATIENCE
        looker = app.results.looker
        task: Any = app.task(lambda: 42)
        done = task.delay()
        app.work()

        async def main() -> None:
            others = looker.ended({"never": None}, Pauses(long, long, long))
            other = asyncio.ensure_future(others)
            await asyncio.sleep(0.6)
            start = time.monotonic()
            assert await asyncio.wait_for(done, PATIENCE) == 42
            assert time.monotonic() - start < PATIENCE
            other.cancel()

        asyncio.run(main())

    def test_those_who_wait_together_share_their_reads(
        self, app: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task: Any = app.task(lambda n: n)
        results = app.publish(task.prepare(n) for n in range(40))
        app.store.limits = StoreLimits(put=25, get=100, item=400_000)
        app.work()
        app.store.calls.clear()
        all_wait = threading.Event()
        read = app.store.inner.get

        def read_then(keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
            assert all_wait.wait(PATIENCE)
            return read(keys, consistent=consistent)

        monkeypatch.setattr(app.store.inner, "get", read_then)

        async def main() -> None:
            values = asyncio.gather(*results)
            for _ in range(3):
                await asyncio.sleep(0)  # each begins to wait
            all_wait.set()
            assert await values == list(range(40))

        asyncio.run(main())
        # The first read is that of the first, then come those of all others: of what lies
        # together, and of what lies apart.
        assert app.store.calls["get"] <= 3

    def test_waiting_on_two_loops_at_once(self, file_app: CloudQ) -> None:
        results = [file_app.tasks["double"].delay(n) for n in range(2)]
        values = dict[int, int]()

        async def one(n: int) -> None:
            values[n] = await asyncio.wait_for(results[n], PATIENCE)

        threads = [threading.Thread(target=lambda n=n: asyncio.run(one(n))) for n in range(2)]
        for thread in threads:
            thread.start()
        drain(file_app)
        for thread in threads:
            thread.join(PATIENCE)
        assert values == {0: 0, 1: 2}

    def test_an_error_of_the_store_is_raised(self, app: Bench) -> None:
        app.store.down.add("get")

        async def main() -> None:
            with pytest.raises(BackendError):
                await asyncio.wait_for(_of(app, "one"), PATIENCE)

        asyncio.run(main())

    def test_what_can_never_come_raises(self, app: Bench) -> None:
        @app.task(name="breaks")
        def breaks() -> None:
            raise ValueError("broken")

        task: Any = app.task(name="next")(lambda value: value)
        result = chain(app.tasks["breaks"].s(), task.s()).delay()
        app.work()

        async def main() -> None:
            with pytest.raises(ValueError, match="broken"):
                await asyncio.wait_for(result, PATIENCE)

        asyncio.run(main())

    def test_without_a_store_it_is_a_clear_error(self) -> None:
        async def main(result: Any) -> None:
            with pytest.raises(ConfigurationError, match="no result backend"):
                await result

        with CloudQ(broker="memory://none", backend="none") as app:
            asyncio.run(main(app.AsyncResult("one")))

    def test_an_eager_result_is_there_at_once(self, app: Bench) -> None:
        task: Any = app.task(lambda n: 1 / n)

        async def main() -> None:
            assert await task.apply((1,)) == 1.0
            with pytest.raises(ZeroDivisionError):
                await task.apply((0,))

        asyncio.run(main())


class TestStopIteration:
    """A coroutine cannot raise it, and a future does not take it."""

    def test_await_raises(self, app: Bench) -> None:
        task: Any = app.task(name="first")(first)
        result = task.delay([])
        app.work()

        async def main() -> None:
            with pytest.raises(RuntimeError) as caught:
                await asyncio.wait_for(result, PATIENCE)
            assert isinstance(caught.value.__cause__, StopIteration)

        asyncio.run(main())
        with pytest.raises(StopIteration):
            result.get()

    def test_await_of_an_eager_result_raises(self, app: Bench) -> None:
        task: Any = app.task(name="first")(first)

        async def main() -> None:
            with pytest.raises(RuntimeError):
                await asyncio.wait_for(task.apply(([],)), PATIENCE)

        asyncio.run(main())

    def test_adelay_raises_what_a_route_raises(self) -> None:
        def nowhere(name: str, *_: Any, **__: Any) -> str:
            return next(queue for queue in [name] if not queue)

        async def main(app: CloudQ) -> None:
            task: Any = app.task(name="routed")(lambda: 0)
            with pytest.raises(RuntimeError) as caught:
                await asyncio.wait_for(task.adelay(), PATIENCE)
            assert isinstance(caught.value.__cause__, StopIteration)

        with CloudQ(broker="memory://routed", task_routes=[nowhere]) as app:
            asyncio.run(main(app))

    @pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit", "StopAsyncIteration"])
    def test_other_odd_errors_raise(self, app: Bench, name: str) -> None:
        kind: type[BaseException] = getattr(builtins, name)

        @app.task(name="odd")
        def odd() -> None:
            raise kind("odd")

        result = odd.delay()
        app.work()

        async def main() -> None:
            with pytest.raises((TaskFailure, StopAsyncIteration), match="odd"):
                await asyncio.wait_for(result, PATIENCE)

        asyncio.run(main())


async def _of(app: CloudQ, id: str) -> Any:
    return await app.AsyncResult(id)
