"""The app of the tests of forked children: its import leaves what it is asked to."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from cloudq import CloudQ

app = CloudQ("forking")
LOADED = os.getpid()
LEDGER = Path(os.environ["DRILL_LEDGER"])
GONE = LEDGER.with_suffix(".gone")
kept: list[Any] = []


class Level(IntEnum):
    LOW = 1


def _leave(what: str) -> None:
    """Leave something that a fork does not have, or must not use."""
    if what == "a thread":
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    elif what == "a connection":
        kept.append(socket.socketpair())
    elif what == "a database":
        kept.append(sqlite3.connect(LEDGER.with_suffix(".db")))
        kept[-1].execute("CREATE TABLE IF NOT EXISTS t (n)")
    elif what == "grpc":
        sys.modules["grpc"] = ModuleType("grpc")  # to import the real one is left to Google's tests
    elif what == "a file to read":
        kept.append(Path(__file__).open())  # noqa: SIM115
    elif what == "a lock of processes":
        kept.append(multiprocessing.Lock())
    elif what == "a default timeout":
        socket.setdefaulttimeout(0.3)
    elif what == "children to nobody":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    elif what == "a thread that has ended":
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(abs, range(4)))
    elif what == "a log file":
        kept.append(LEDGER.with_suffix(".log").open("a"))
    elif what == "an end":
        atexit.register(GONE.touch)


_leave(os.environ.get("LEAVES", ""))


@app.task
def where() -> list[int]:
    """The process, its parent, and the process that has loaded the app."""
    return [os.getpid(), os.getppid(), LOADED]


@app.task
def make_folder() -> str:
    """A folder that is deleted when this process ends."""
    kept.append(tempfile.TemporaryDirectory())
    return kept[-1].name


@app.task
def draw() -> float:
    time.sleep(0.05)
    return random.random()


@app.task
def end_with_process() -> None:
    os._exit(3)


@app.task
def hold(name: str) -> str:
    with LEDGER.open("a") as ledger:
        ledger.write(f"start {name}\n")
    while not Path(f"{LEDGER}.go").exists():
        time.sleep(0.05)
    return name


@app.task
def loaded() -> list[str]:
    """The modules of these that this process has loaded."""
    return sorted(LATE.intersection(sys.modules))


LATE = {"pydantic", "cloudq_local.sqlite", "cloudq.tasks.validation", "importlib.metadata"}

if os.environ.get("LEAVES") == "a model":

    @app.task
    def takes_model(level: Level) -> int:
        return level.value
