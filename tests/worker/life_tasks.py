"""The app of the tests of pools: tasks that say where they run, and receivers that say when."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

from cloudq import CloudQ, SoftTimeLimitExceeded, Task, get_task_logger, signals

app = CloudQ("life")
log = get_task_logger("life.tasks")


def note(entry: object) -> None:
    """Append a line to the ledger; whole, whoever else appends."""
    ledger = os.open(os.environ["DRILL_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{entry}\n".encode())
    os.close(ledger)


class Connected(Task[..., Any]):
    """Has something that is made once in each process."""

    connections = 0

    @property
    def connection(self) -> str:
        self.connections += 1
        return f"{os.getpid()} {self.connections}"


@app.task
def nap(name: str, seconds: float) -> int:
    note(f"start {name}")
    time.sleep(seconds)
    note(f"end {name}")
    return os.getpid()


def held() -> None:
    """Wait until the test lets its tasks go on: `Place.let_go`."""
    while not os.path.exists(os.environ["DRILL_LEDGER"] + ".go"):
        time.sleep(0.02)


@app.task
def hold() -> int:
    held()
    return os.getpid()


@app.task
async def async_nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


_met: list[str] = []


@app.task
def meet(count: int) -> int:
    """Ends when so many run at a time in this process."""
    _met.append("one")
    while len(_met) < count:
        time.sleep(0.01)
    return os.getpid()


@app.task
async def async_meet(count: int) -> int:
    _met.append("one")
    while len(_met) < count:
        await asyncio.sleep(0.01)
    return os.getpid()


@app.task
def place() -> tuple[int, str, bool]:
    log.warning("here I am")
    green = "gevent.monkey" in sys.modules
    return os.getpid(), threading.current_thread().name, green


@app.task(soft_time_limit=0.3)
def patient() -> str:
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        return "interrupted"
    return "slept"


@app.task
def set_alarm() -> bool:
    """Handle a signal, which only a main thread may, and raise from its handler."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError("it rings")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        time.sleep(600)
    except TimeoutError:
        return threading.current_thread() is threading.main_thread()
    finally:
        signal.signal(signal.SIGALRM, before)
    return False


@app.task(soft_time_limit=0.3)
def restless() -> str:
    try:
        while True:
            time.sleep(0.02)
    except SoftTimeLimitExceeded:
        return "interrupted"


@app.task(time_limit=1.0)
def endless() -> None:
    time.sleep(600)


@app.task
def late_alarm() -> None:
    """Raise in its thread when it has ended, between two tasks."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError("it rings too late")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.2)


@app.task
def collector() -> tuple[bool, int]:
    """Tell whether garbage is collected, and how many objects are passed over."""
    return gc.isenabled(), gc.get_freeze_count()


@app.task(base=Connected, bind=True)
def connected(self: Connected) -> str:
    return self.connection


@app.task
def grow(mebibytes: int) -> int:
    kept = bytearray(mebibytes << 20)
    kept[::4096] = b"x" * len(kept[::4096])
    app.__dict__.setdefault("kept", []).append(kept)
    return os.getpid()


@app.task(bind=True)
def progress(self: Task[..., str]) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    held()
    return "done"


def _tell(signal: signals.Signal, name: str) -> None:
    def receiver(sender: Any = None, **_: object) -> None:
        if "DRILL_LEDGER" in os.environ:
            note(f"signal {name} {os.getpid()}")
            if name == "worker_ready":
                note(f"hostname {sender.hostname} of {sender.app.name}")

    signal.connect(receiver, weak=False)


for _name in (
    "worker_init",
    "worker_ready",
    "worker_shutting_down",
    "worker_shutdown",
    "worker_process_init",
    "worker_process_shutdown",
    "task_received",
    "task_prerun",
    "task_postrun",
):
    _tell(getattr(signals, _name), _name)
