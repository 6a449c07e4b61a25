"""Apps in forked processes: each opens its own connections, whatever threads were doing."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.servers import unique

# Programs fork a process of their own: pytest's has threads that are not ours.
COMMON = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
from cloudq import CloudQ
from cloudq.testing import drain
app = CloudQ("forks", broker=sys.argv[1], backend=sys.argv[2], task_default_queue=sys.argv[3])

@app.task(name="double")
def double(n): return 2 * n

def forked(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a process that hangs is ended, and its status says so
        try: work()
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
"""


def run(program: str, broker: str, backend: str, queue: str = "default") -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program, broker, backend, queue],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/cloudq.db"


BESIDE_A_SENDER = """
double.delay(0)
go = True
def busy():
    while go: double.delay(1)
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
ends = [forked(lambda: double.delay(2).state) for _ in range(20)]
go = False
for thread in threads: thread.join()
print(sorted(set(ends)))
"""


def test_a_child_sends_beside_threads_that_were_sending(file: str, tmp_path: Path) -> None:
    assert run(BESIDE_A_SENDER, file, file) == "[0]"
    with closing(sqlite3.connect(tmp_path / "cloudq.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


BESIDE_A_WAITER = """
results = [double.delay(n) for n in range(3)]
waiting = [threading.Thread(target=r.get, args=(60,), daemon=True) for r in results]
for thread in waiting: thread.start()
print(forked(lambda: results[0].revoke()))
drain(app)
print(forked(lambda: print(results[1].get(timeout=10), flush=True)))
for thread in waiting: thread.join(10)
"""


def test_results_of_the_parent_are_known_to_a_child(file: str) -> None:
    assert run(BESIDE_A_WAITER, file, file).split() == ["0", "2", "0"]


WHOSE_PARENT_ENDS = """
double.delay(1)
read, write = os.pipe()
if os.fork():
    os._exit(0)  # as a program that becomes a daemon
signal.alarm(60)
results = [double.delay(n) for n in range(50)]
other = CloudQ("other", broker=sys.argv[1])
assert other.backend.record("-") is None
drain(app)
print([r.get(timeout=10) for r in results] == [2 * n for n in range(50)])
"""


def test_a_child_works_on_when_its_parent_has_ended(file: str, tmp_path: Path) -> None:
    assert run(WHOSE_PARENT_ENDS, file, file) == "True"
    with closing(sqlite3.connect(tmp_path / "cloudq.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


BY_MULTIPROCESSING = """
import multiprocessing
def work(n): return double.delay(n).id
double.delay(0)
with multiprocessing.get_context("fork").Pool(3) as pool:
    ids = pool.map(work, range(30))
drain(app)
print(sorted(app.AsyncResult(id).get(timeout=10) for id in ids) == [2 * n for n in range(30)])
"""


def test_processes_of_a_pool_send(file: str) -> None:
    assert run(BY_MULTIPROCESSING, file, file) == "True"


AWAITED = """
import asyncio
result = double.delay(3)
async def wait(): return await asyncio.wait_for(result, 20)
thread = threading.Thread(target=asyncio.run, args=(wait(),), daemon=True)
thread.start()
time.sleep(0.3)
drain(app)
thread.join(10)
second = double.delay(4)
def child():
    worker = threading.Timer(0.2, drain, [app])
    worker.start()
    async def main(): return await asyncio.wait_for(second, 20)
    assert asyncio.run(main()) == 8
print(forked(child))
"""


def test_a_child_awaits_a_result(file: str) -> None:
    assert run(AWAITED, file, file) == "0"


LIMITED = """
from cloudq import SoftTimeLimitExceeded
@app.task(soft_time_limit=0.2)
def slow():
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline: time.sleep(0.01)
first = slow.apply()
def child():
    start = time.monotonic()
    assert isinstance(slow.apply().get(propagate=False), SoftTimeLimitExceeded)
    assert time.monotonic() - start < 100
print(forked(child))
"""


def test_time_limits_hold_in_a_child(file: str) -> None:
    assert run(LIMITED, file, file) == "0"


WITH_LOCKS_HELD = """
import gc
app.conf.task_events = "tracked"
double.delay(0)
double.apply_async((0,), task_id="known")
drain(app)
def locks():
    "Each lock of each object of the core: whatever a thread may have been doing."
    for owner in gc.get_objects():
        if (type(owner).__module__ or "").partition(".")[0] != "cloudq": continue
        if type(owner).__name__ == "Whole": continue  # which a fork is to wait for
        for value in list(getattr(owner, "__dict__", {}).values()):
            if type(value).__name__ in ("lock", "RLock", "Condition"):
                yield type(owner).__name__, value
held, ready, over = [], threading.Event(), threading.Event()
def hold():
    for name, lock in locks():
        if lock.acquire(blocking=False): held.append((name, lock))
    ready.set()
    over.wait(60)
    for _, lock in held: lock.release()
holder = threading.Thread(target=hold)
holder.start()
ready.wait(30)
def child():
    double.apply_async((1,), task_id="known too")
    result = double.delay(4)
    drain(app)
    assert result.get(timeout=10) == 8
    @app.task(name="late")
    def late(): return 1
print(forked(child))
over.set()
holder.join(30)
print({"Driven", "Broker", "Backend", "Marks", "History", "Runtime"} & {name for name, _ in held})
"""


def test_a_child_waits_for_no_lock_of_its_parents_threads(file: str) -> None:
    status, held = run(WITH_LOCKS_HELD, file, file).split("\n")
    assert status == "0"
    assert {"Backend", "Broker", "History", "Marks", "Runtime"} <= set(re.findall(r"\w+", held))


IN_MEMORY = """
double.delay(1)
done = double.delay(2)
drain(app)
waiting = double.delay(3)
def child():
    assert done.get(timeout=10) == 4  # as the parent knew it
    assert drain(app) == []  # the parent's messages are the parent's to run
    mine = double.delay(5)
    drain(app)
    assert mine.get(timeout=10) == 10
print(forked(child))
drain(app)
print(waiting.get(timeout=10))
"""


def test_a_child_begins_with_empty_queues_in_memory() -> None:
    assert run(IN_MEMORY, "memory://forks", "memory://forks").split() == ["0", "6"]


ON_A_CLOUD = """
app.broker.admin.create(sys.argv[3], lease=30, max_deliveries=10)
app.backend.driver.create_store()
first = double.delay(1)
ends = [forked(lambda: double.delay(2).state) for _ in range(5)]
print(ends)
for _ in range(20):
    drain(app)
    if first.ready(): break
    time.sleep(0.5)
print(first.get(timeout=10))
"""


def test_a_child_has_its_own_connections_to_aws(aws: Endpoint) -> None:
    broker = f"sqs://?endpoint_url={aws.url}"
    backend = f"dynamodb://{unique('forks')}?endpoint_url={aws.url}"
    assert run(ON_A_CLOUD, broker, backend, unique("forks")).split("\n") == [
        "[0, 0, 0, 0, 0]",
        "2",
    ]
