"""The app that the worker drills run: each task writes to a ledger what it did."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from cloudq import CloudQ, Task

app = CloudQ("drills")


def note(entry: object) -> None:
    """Append a line to the ledger; whole, whoever else appends."""
    ledger = os.open(os.environ["DRILL_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{entry}\n".encode())
    os.close(ledger)


def held(by: str = "go") -> None:
    """Wait until the test lets its tasks go on: `Place.let_go`."""
    while not os.path.exists(f"{os.environ['DRILL_LEDGER']}.{by}"):
        time.sleep(0.02)


@app.task
def work(number: int, seconds: float) -> int:
    time.sleep(seconds)
    note(number)
    return number * 2


@app.task
def tally(number: int, seconds: float) -> int:
    """Notes, in a line as long as every other, in which process it has run."""
    time.sleep(seconds)
    note(f"{number:>7} {os.getpid():>9}")
    return number * 2


@app.task
def weigh(name: str, text: str) -> int:
    note(name)
    return len(text)


@app.task
def nap(name: str, seconds: float) -> str:
    """Says when it starts and when it ends."""
    note(f"start {name}")
    time.sleep(seconds)
    note(f"end {name}")
    return name


@app.task
def hold(name: str) -> str:
    """Says when it starts and when it ends, which the test decides."""
    note(f"start {name}")
    held()
    note(f"end {name}")
    return name


@app.task
def hold_here(name: str) -> int:
    """Says where it starts, waits until the test lets this process go on, and tells which it is."""
    note(f"{name} {os.getpid()}")
    held(f"{os.getpid()}")
    return os.getpid()


@app.task
async def async_nap(name: str, seconds: float) -> str:
    note(f"start {name}")
    await asyncio.sleep(seconds)
    note(f"end {name}")
    return name


def hold_the_gil(seconds: float) -> None:
    """Stay in one C call that never lets go of the GIL, for about so long, at least."""
    length = 18
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.monotonic() - start < seconds / 2:
            length += 1


@app.task
def hog(name: str, seconds: float) -> str:
    note(f"start {name}")
    hold_the_gil(seconds)
    note(f"end {name}")
    return name


@app.task(time_limit=1.5)
def spin(name: str) -> None:
    """One C call that would take years and holds the GIL."""
    note(f"start {name}")
    re.match(r"(a+)+$", "a" * 64 + "b")


@app.task(bind=True, max_retries=5, default_retry_delay=0.0)
def flaky(self: Task[..., int], number: int, failures: int) -> int:
    note(number)
    if self.request.retries < failures:
        raise self.retry(exc=ValueError(f"try {self.request.retries}"))
    return self.request.retries


@app.task
def die(name: str) -> None:
    note(f"die {name}")
    os.kill(os.getpid(), 9)


def _fault() -> None:
    ctypes.string_at(0)


def _exhaust() -> None:
    """Take more memory than a limit lets it have, and be killed for it, as by the kernel."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        bytearray(1 << 31)
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


ENDS: Mapping[str, Callable[[], object]] = {
    "exit": partial(os._exit, 1),
    "leave": partial(os._exit, 0),
    "fault": _fault,
    "abort": os.abort,
    "memory": _exhaust,
}
"""Ways in which a task ends its process."""


@app.task
def end(name: str, way: str = "exit", after: float = 0.0) -> None:
    """Ends its process, after a while."""
    note(f"end {name}")
    time.sleep(after)
    ENDS[way]()


@app.task(bind=True)
def delivered(self: Task[..., list[int]], name: str) -> list[int]:
    """Waits until the test lets it go, and tells its deliveries, if it ran before, its process."""
    note(f"start {name}")
    held()
    request = self.request
    return [request.attempts, request.delivery_info["redelivered"], os.getpid()]


@app.task(bind=True, idempotent=True, concurrency="suspects:{name}")
def once(self: Task[..., int], name: str) -> int:
    """Waits, holding a claim of an hour and the permit of its name."""
    note(f"start {name}")
    held()
    return self.request.attempts


@app.task
def pid() -> int:
    return os.getpid()


@app.task
async def leave() -> None:
    """Ends as a program would, in the middle of the loop that other coroutines run on."""
    sys.exit(3)


@app.task(bind=True)
def retry_oddly(self: Task[..., None]) -> None:
    """Asks for a retry in a way that no type checker lets pass."""
    raise self.retry(countdown="soon")  # type: ignore[arg-type]


@app.task(bind=True, max_retries=1, default_retry_delay=0.0)
def retry_large(self: Task[..., None], text: str) -> None:
    note(f"try {len(text)}")
    raise self.retry()


@app.task
def maybe_die(number: int, dies: bool) -> int:
    note(number)
    if dies:
        os._exit(1)
    return number


@app.task
def die_with_heir(seconds: float) -> None:
    """Dies while a process that it has forked holds on to everything that was open."""
    heir = os.fork()
    if heir == 0:
        time.sleep(seconds)
        os._exit(0)
    note(f"heir {heir}")
    os.kill(os.getpid(), 9)


def _fork_and(end: str) -> int:
    """Forks, ends in the copy in some way, and tells the copy's exit code."""
    copy = os.fork()
    if copy == 0:
        if end == "raise":
            raise ValueError("in the copy")
        if end == "exit":
            sys.exit(3)
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


@app.task
def fork_and(end: str) -> int:
    return _fork_and(end)


@app.task
async def async_fork_and(end: str) -> int:
    return _fork_and(end)


@app.task
def pause_and_note(name: str) -> None:
    time.sleep(1)
    note(name)


@app.task
def fork_and_pause() -> int:
    """Forks, waits in the copy, and tells the copy's exit code."""
    copy = os.fork()
    if copy == 0:
        time.sleep(2)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


@app.task
def stop_itself(name: str) -> str:
    """Stops its process, of which nobody takes care."""
    note(f"stop {name}")
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)  # this thread may run on for a moment, until another takes the signal
    return "went on"


@app.task
def terminate_forked() -> int | None:
    """Stops a process that it has forked with SIGTERM, as `multiprocessing.Pool` does."""
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    forked.terminate()
    forked.join()
    code = forked.exitcode
    forked.kill()
    return code


@app.task
def terminate_started() -> int | None:
    """Stops a program that it has started with SIGTERM."""
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    return program.wait()


@app.task
def leave_a_thread() -> int:
    """Leaves a thread that keeps its process from ending."""
    threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
    return os.getpid()


@app.task(time_limit=1.5)
def stall(name: str) -> None:
    note(f"start {name}")
    time.sleep(60)


@app.task(rate_limit="4/s")
def paced(number: int) -> None:
    note(f"at {time.time()}")


@app.task(concurrency="key:{key}")
def alone(key: str, seconds: float, waits: bool = False) -> None:
    """One at a time of each key."""
    note(f"in {key}")
    time.sleep(seconds)
    if waits:
        held()
    note(f"out {key}")


@app.task(concurrency="key:{key}", time_limit=1.5)
def limited(key: str, seconds: float) -> None:
    note(f"in {key}")
    time.sleep(seconds)


@app.task(bind=True)
def walk(this: Task[..., int], steps: int, rest: int) -> int:
    """Notes each step once it is saved, and says when it starts. Waits before the step `rest`."""
    note("start")
    for step in range(this.resume(0), steps):
        if step == rest:
            held()
        this.checkpoint(step + 1)
        note(f"step {step}")
    return steps


@app.task
def raise_later_here(after: float) -> None:
    """Have an exception raised in this thread after so many seconds, as libraries for limits do."""
    thread = ctypes.c_ulong(threading.get_ident())

    def raise_it() -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(KeyboardInterrupt))
        note("raised")

    threading.Timer(after, raise_it).start()


@app.task
def close_files() -> None:
    """Close files that are not its own, the connection to the supervisor among them."""
    os.closerange(3, 64)


@app.task
def raise_in(name: str) -> None:
    """Have an exception raised in another thread of this process."""
    for thread in threading.enumerate():
        if thread.name == name and thread.ident is not None:
            ident = ctypes.c_ulong(thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))
