"""The cold start of a deployed function: what it loads, and what it leaves as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cloudq_deploy.aws.package import own_files

_APP = """
from cloudq import CloudQ

app = CloudQ("shop")


@app.task
def add(x: int, y: int) -> int:
    return x + y
"""
# Each was loaded once by every cold start, or would be by one careless import.
_NEVER = (
    "boto3",
    "botocore",
    "urllib3",
    "http",
    "email",
    "pydantic",
    "s3transfer",
    "aws_lambda_powertools",
    "asyncio",
    "multiprocessing",
    "psutil",
    "rich",
    "typer",
    "cloudq.cli",
    "cloudq.contrib",
    "cloudq.testing",
    "cloudq.worker",
    "cloudq.schedules.beat",
    "cloudq_aws.eventbridge",
    "cloudq_aws.metrics",
    "cloudq_deploy",
)
_REPORT = """
import gc, json, os, sys

own = gc.get_threshold()
import cloudq_function
handler = cloudq_function.handler
event = {"task": "shop.tasks.add", "args": [2, 3]}
answer = handler(event, None) if os.environ["CLOUDQ_BACKEND"] == "none" else None
gc_as_before = gc.isenabled() and gc.get_threshold() == own
print(json.dumps({
    "answer": answer,
    "loaded": sorted(sys.modules),
    "threshold": gc.get_threshold()[0],
    "gc as before": gc_as_before,
    "frozen": gc.get_freeze_count(),
}))
"""


def started(folder: Path, app: str = _APP, *, backend: str = "none") -> dict[str, Any]:
    """The report of a fresh process that loads the deployed handler of this app.

    Without a backend it is called.
    """
    package = folder / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(app)
    for name, content in own_files("shop.tasks:app").items():
        (folder / name).write_bytes(content)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "eu-west-1",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
        "CLOUDQ_BROKER": "sqs://",
        "CLOUDQ_BACKEND": backend,
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", _REPORT], env=env, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def needless(loaded: list[str]) -> set[str]:
    """The names of what should not have been loaded."""
    return {
        name for name in _NEVER for each in loaded if each == name or each.startswith(f"{name}.")
    }


def test_a_function_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    report = started(tmp_path)
    assert (report["answer"]["state"], report["answer"]["result"]) == ("SUCCESS", 5)
    assert needless(report["loaded"]) == set()


def test_queues_and_table_are_open_before_the_first_event(tmp_path: Path) -> None:
    loaded = started(tmp_path, backend="dynamodb://table")["loaded"]
    assert needless(loaded) == set()
    assert {"cloudq_aws.sqs", "cloudq_aws.dynamodb"} <= set(loaded)


def test_garbage_is_collected_again_once_the_function_is_loaded(tmp_path: Path) -> None:
    report = started(tmp_path)
    assert report["gc as before"]
    assert report["frozen"] > 10_000, "what is loaded is looked through no more"


def test_an_app_that_says_when_garbage_is_collected_is_left_alone(tmp_path: Path) -> None:
    report = started(tmp_path, f"import gc\ngc.set_threshold(5000, 2, 2)\n{_APP}")
    assert report["threshold"] == 5000


def test_an_app_that_wants_no_collection_has_none(tmp_path: Path) -> None:
    assert not started(tmp_path, f"import gc\ngc.disable()\n{_APP}")["gc as before"]
