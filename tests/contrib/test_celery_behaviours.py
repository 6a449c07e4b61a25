"""Celery's behaviours, row by row: on cloudq as they were recorded of the real Celery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.contrib.celery_differences import DIFFERENT, WITHOUT_COUNTERPART

HERE = Path(__file__).parent
ROWS = HERE / "celery_behaviours.py"
# What `python celery_behaviours.py celery` printed with Celery 5.7, made anew by
# `CELERY_PYTHON=... python -m tests.contrib.test_celery_behaviours`.
RECORDING = HERE / "celery_behaviours.json"
AT_LEAST = 0.97

Came = dict[str, Any]


def run(which: str, python: str = sys.executable) -> Came:
    done = subprocess.run(
        [python, str(ROWS), which],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])} if which == "cloudq" else None,
    )
    assert done.returncode == 0, done.stderr
    came: Came = json.loads(done.stdout)
    return came


def different(came: Came, recorded: Came) -> set[str]:
    return {name for name in recorded if came[name] != recorded[name]}


def test_cloudq_does_what_celery_does_or_the_difference_is_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    came, recorded = run("cloudq"), json.loads(RECORDING.read_text())
    assert came.keys() == recorded.keys()
    found = different(came, recorded)
    applies = recorded.keys() - WITHOUT_COUNTERPART.keys()
    share = 1 - len(found & applies) / len(applies)
    with capsys.disabled():
        print(f"\n{share:.1%} of {len(applies)} rows that apply are equal", end=" ")
        print(f"({len(found & applies)} differ, {len(WITHOUT_COUNTERPART)} do not apply)")
    assert len(recorded) >= 120
    listed = DIFFERENT.keys() | WITHOUT_COUNTERPART.keys()
    for name in sorted(found ^ listed):
        print(f"{name}\n   celery {recorded[name]}\n   cloudq {came[name]}")
    assert found == listed
    assert share >= AT_LEAST


def test_each_difference_has_one_reason() -> None:
    assert not DIFFERENT.keys() & WITHOUT_COUNTERPART.keys()
    assert all(reason.strip() for reason in [*DIFFERENT.values(), *WITHOUT_COUNTERPART.values()])


def test_every_kind_has_rows() -> None:
    kinds = Counter(name.split(":")[0] for name in json.loads(RECORDING.read_text()))
    expected = (
        "same chain group chord link_error replace signature result task request retry error "
        "exception eager setting app call routes crontab schedule signal state inspect control"
    )
    for kind in expected.split():
        assert kinds[kind], kind


PYTHON = os.environ.get("CELERY_PYTHON") or (sys.executable if find_spec("celery") else None)


@pytest.mark.drill
@pytest.mark.skipif(
    PYTHON is None or os.environ.get("CLOUDQ_DRILL") != "full",
    reason="needs Celery, or CELERY_PYTHON that has it, and CLOUDQ_DRILL=full (3 minutes)",
)
def test_what_was_recorded_is_what_celery_does() -> None:
    came, recorded = run("celery", str(PYTHON)), json.loads(RECORDING.read_text())
    assert came == recorded


def record() -> None:
    RECORDING.write_text(json.dumps(run("celery", str(PYTHON)), indent=1) + "\n")


if __name__ == "__main__":
    record()
