"""Runs programs that fork: pytest's own process has threads that are none of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from cloudq.testing.waiting import PATIENCE

# A child that hangs is killed by its parent, by its process id: it may hang before its own first
# line, in the hooks of a library.
_COMMON = """
import asyncio, faulthandler, os, signal, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore")
from cloudq import CloudQ
from cloudq.testing import drain
app = CloudQ("forks", broker=sys.argv[1], backend=sys.argv[2], task_default_queue=sys.argv[3])

@app.task(name="double")
def double(n): return 2 * n

@app.task(name="slow_double")
async def slow_double(n):
    await asyncio.sleep(0.01)
    return 2 * n

generations = []

def forked(work, patience=40, by=os._exit):
    "The exit status of a child that does the work; -9 if it had to be killed."
    pid = os.fork()
    if pid == 0:
        signal.alarm(2 * patience)  # should the parent be gone
        if not generations:  # in a child of a child it would wait for its parent's thread for ever
            faulthandler.dump_traceback_later(patience - 2)  # where it hangs
        generations.append(pid)
        status = 0
        try: work()
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        by(status)
    watchdog = threading.Timer(patience, os.kill, [pid, signal.SIGKILL])
    watchdog.start()
    try: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally: watchdog.cancel()

def worked(result, expected):
    "Run what waits until a result is there, for at most 30 s."
    end = time.monotonic() + 30
    while not result.ready() and time.monotonic() < end: drain(app)
    assert result.get(timeout=10) == expected

async def awaited(result): return await asyncio.wait_for(result, 20)
"""


def run_forking(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program with the URLs of a broker and a store, and a queue; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMON + program, *arguments],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        env={**os.environ, **(environment or {})},
    )
    sys.stderr.write(done.stderr[-3000:])  # what children say, for the report of a test that fails
    assert done.returncode == 0
    return done.stdout.strip()
