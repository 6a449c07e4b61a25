"""Commands of Celery's that differ from cloudq's own, or that it has not."""

from __future__ import annotations

import code
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import typer

import cloudq
from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.cli.celery.values import names
from cloudq.cli.commands.result import outcome
from cloudq.cli.options import Target, refuse_memory, refuse_missing, require_file
from cloudq.cli.output import ask, complain, say, say_trace
from cloudq.driver import Code
from cloudq.errors import ConfigurationError, ServiceError
from cloudq.operations import queues as operations
from cloudq.operations.audit import local_actor
from cloudq.results.record import State
from cloudq.results.result import wait_for
from cloudq.text import AsIs, masked


def purge(target: Target, steps: Mapping[str, str]) -> None:
    """Delete all messages of the app's queues, or of those that are named."""
    app = target.open()
    refuse_memory(app)
    require_file(app)
    wanted = names(steps["queues"]) if "queues" in steps else app.queues()
    kept = names(steps.get("exclude_queues", ""))
    queues = [queue for queue in wanted if queue not in kept]
    if not queues:
        return
    question = f"Delete all messages of {', '.join(queues)} on {app.conf.broker}?"
    if "force" not in steps and not ask(question):
        raise typer.Abort
    with app:
        known = sum(_purged(app, queue) for queue in queues)
    say(f"deleted {counted(known, 'message')} of {counted(len(queues), 'queue')}")


def _purged(app: CloudQ, queue: str) -> int:
    """Empty a queue; one that is not there is empty."""
    try:
        return operations.purge(app, queue, by=local_actor()).deleted or 0
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return 0


def result(target: Target, ids: Sequence[str], steps: Mapping[str, str]) -> int:
    """Wait for a task and print its value, or print its traceback now; return the exit code."""
    if not ids:
        raise ConfigurationError("celery result: give the id of a task")
    app = target.open()
    refuse_missing(app.conf.backend_url)
    with app:
        called = app.AsyncResult(ids[0])
        if "traceback" in steps:
            say_trace(called.traceback or "None")
            return 0
        record = wait_for([called])[0]
        if record.state == State.SUCCESS:
            say(AsIs(str(called.get())))
            return 0
    complain(outcome(record), kind=record.state)
    return 1


def report(target: Target) -> None:
    """Print the versions and the settings, for a report of a bug."""
    app = target.open()
    say(f"software -> cloudq:{cloudq.__version__} py:{platform.python_version()}")
    say(f"platform -> system:{platform.system()} machine:{platform.machine()}")
    for name, value in masked(app.conf.as_json()).items():
        say(f"{name}: {value!r}")


def shell(target: Target, steps: Mapping[str, str]) -> None:
    """Open a Python shell with the app and its tasks."""
    app = target.load()
    here: dict[str, object] = {
        **({} if "without_tasks" in steps else _tasks(app)),
        **{
            name: getattr(cloudq, name)
            for name in ("chain", "chord", "chunks", "group", "signature")
            if hasattr(cloudq, name)
        },
        "app": app,
        "celery": app,
    }
    with app:
        if "ipython" in steps:
            _module("IPython", "--ipython").start_ipython(argv=[], user_ns=here)
        elif "bpython" in steps:
            _module("bpython", "--bpython").embed(here)
        else:
            with suppress(ImportError):
                import_module("readline")
            code.interact(banner=f"cloudq {cloudq.__version__}, app {app.name}", local=here)


def _tasks(app: CloudQ) -> dict[str, object]:
    """Return the tasks by the last part of their names."""
    return {
        name.rpartition(".")[2]: task
        for name, task in app.tasks.items()
        if not name.startswith(("celery.", "cloudq."))
    }


def _module(name: str, option: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{option} needs {name}: pip install {name.lower()}") from error
