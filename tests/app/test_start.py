"""Checks that a start loads and builds little, and that what is built later is built once."""

from __future__ import annotations

import subprocess
import sys

import pytest

_STARTED = "import sys; from cloudq import CloudQ; app = CloudQ(broker='memory://');"
_MODEL = "from cloudq.messages.message import TaskMessage;"
_LOADED = "'pydantic' in sys.modules"


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_start_does_not_load_what_only_some_processes_use() -> None:
    late = {
        *("asyncio", "_hashlib", "hmac", "pickle", "difflib", "sqlite3"),
        *("pydantic", "pydantic_core", "typing_inspection"),
        *("cloudq.driver.admin", "cloudq.driver.schedulers", "cloudq.execution.executor"),
    }
    loaded = run(f"{_STARTED} print(*sys.modules)").split()
    assert "cloudq.app.app" in loaded
    assert sorted(late.intersection(loaded)) == []


def test_a_start_compiles_no_pattern_of_a_secret() -> None:
    assert (
        run(f"{_STARTED} from cloudq import text; print(text._compiled.cache_info().misses)") == "0"
    )


def test_names_that_are_loaded_late_are_listed_and_found() -> None:
    import cloudq.driver

    assert set(cloudq.driver.__all__) <= set(dir(cloudq.driver))
    for name in cloudq.driver.__all__:
        assert getattr(cloudq.driver, name).__class__ is not None
    with pytest.raises(AttributeError, match="has no attribute 'Peek'"):
        _ = cloudq.driver.Peek  # pyright: ignore


# ---- the model of messages

_ODD = "TaskMessage(id='1', task='t', retries='1')"  # a text that is a number


def test_no_call_and_no_task_of_plain_values_loads_pydantic() -> None:
    program = f"""
{_STARTED}
@app.task
def add(x: int, y: int = 1) -> int: return x + y
add.delay(1, y=2)
runner = app.executor()
from cloudq.execution.consume import Consumer
from cloudq.testing.draining import drain
assert len(drain(app)) == 1
print(*sorted(name for name in sys.modules if name.startswith("pydantic")))
"""
    assert run(program) == ""


def test_the_model_of_messages_is_built_for_what_is_not_plainly_right() -> None:
    said = run(
        f"{_STARTED} {_MODEL} TaskMessage(id='1', task='t'); print({_LOADED}); "
        f"assert {_ODD}.retries == 1; print({_LOADED})"
    )
    assert said.split() == ["False", "True"]


@pytest.mark.parametrize(
    "use", [_ODD, "validated({'id': '1', 'task': 't'})", "read_json(b'{}')", "schema()"]
)
def test_many_threads_that_use_it_first_build_it_once(use: str) -> None:
    program = f"""
import sys, threading
from contextlib import suppress
from concurrent.futures import ThreadPoolExecutor
from pydantic._internal import _model_construction as construction
from cloudq.messages.message import TaskMessage
from cloudq.messages.model import read_json, schema, validated
sys.setswitchinterval(1e-6)
built = []
real = construction.complete_model_class
def counted(cls, *given, **named):
    built.append(cls)
    return real(cls, *given, **named)
construction.complete_model_class = counted
start = threading.Barrier(16)
def use(_):
    start.wait()
    with suppress(ValueError): {use}
    try: TaskMessage(id="1", task="a\\nb")
    except ValueError: return True
with ThreadPoolExecutor(16) as threads: print(all(threads.map(use, range(16))), len(built))
"""
    assert run(program) == "True 1"


def test_a_fork_waits_for_a_thread_that_builds_it() -> None:
    program = f"""
import os, signal, threading
from pydantic._internal import _model_construction as construction
from cloudq.messages.message import TaskMessage
inside, forking = threading.Event(), threading.Event()
real = construction.complete_model_class
def slow(*given, **named):
    inside.set()
    assert forking.wait(20)
    return real(*given, **named)
construction.complete_model_class = slow
builder = threading.Thread(target=lambda: {_ODD})
builder.start()
assert inside.wait(20)
os.register_at_fork(before=forking.set)  # the hook that is the last to be registered is the first
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit({_ODD}.retries != 1)
builder.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(program) == "0"
