"""examples/celery_shop on cloudq gives what it gave on Celery: only its imports differ."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "celery_shop"

# What day.py printed on Celery 5.7 (tests/contrib/real_celery.py).
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "celery_shop.json").read_text())
# Of a failed chord Celery raises the member's error or ChordError, as its store happens to be read;
# with Redis it is always the member's.
WITH_REDIS = {"unknown item": "LookupError"}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    """A copy of the shop with a worker that takes its queues."""
    folder = tmp_path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db", "*.txt"))
    # As a project's start script has it, with `cloudq celery` in place of `celery`.
    line = "celery -A shop.app worker --loglevel INFO -c 2 -P prefork -E -O fair -Q shop,billing"
    command = [sys.executable, "-m", "cloudq", *line.split(), "--without-gossip", "-n", "w1@%h"]
    log = folder / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            command, cwd=folder, env=_environment(folder), stdout=file, stderr=file
        )
    try:
        eventually(lambda: "is ready" in log.read_text() or worker.poll() is not None)
        assert worker.poll() is None, log.read_text()
        yield folder
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()


def test_a_day_on_cloudq_is_a_day_on_celery(shop: Path) -> None:
    came = json.loads(_run(shop, "day.py"))
    assert came.keys() == RECORDED.keys()
    for what, recorded in (RECORDED | WITH_REDIS).items():
        assert came[what] == recorded, what


def test_a_replaced_task_fails_as_its_workflow_does(shop: Path) -> None:
    program = "from shop import orders\norders.place.delay('mallory', [['mug', 1]]).get(timeout=3)"
    (shop / "mallory.py").write_text(program)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _run(shop, "mallory.py")
    assert "CardDeclined" in caught.value.stderr


def test_its_imports_are_all_that_differ(tmp_path: Path) -> None:
    folder = tmp_path / "celery"
    _as_for_celery(folder)
    left = [path for path in folder.rglob("*.py") if "cloudq.contrib" in path.read_text()]
    assert left == []
    theirs = (folder / "shop" / "billing.py").read_text().splitlines()
    ours = (SHOP / "shop" / "billing.py").read_text().splitlines()
    changed = set(theirs) ^ set(ours)
    assert changed
    assert all(line.startswith("from ") for line in changed)


PYTHON = os.environ.get("CELERY_PYTHON") or (sys.executable if find_spec("celery") else None)


@pytest.mark.drill
@pytest.mark.skipif(
    PYTHON is None or os.environ.get("CLOUDQ_DRILL") != "full",
    reason="needs Celery, or CELERY_PYTHON that has it, and CLOUDQ_DRILL=full (40 s)",
)
def test_what_was_recorded_is_what_celery_does(tmp_path: Path) -> None:
    folder = tmp_path / "celery"
    _as_for_celery(folder)
    real = Path(__file__).parent / "real_celery.py"
    done = subprocess.run(
        [str(PYTHON), str(real)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "SHOP_JOURNAL": "journal.txt"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    came = json.loads(done.stdout)
    # Celery fails a chord's body by the member's own error or by its ChordError, whichever of its
    # threads is first; cloudq by ChordError.
    assert came.pop("unknown item") in ("LookupError", "ChordError")
    assert came == {what: recorded for what, recorded in RECORDED.items() if what != "unknown item"}


def _as_for_celery(folder: Path) -> None:
    """The shop as it was before it moved."""
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db", "*.txt"))
    for path in folder.rglob("*.py"):
        text = path.read_text()
        moved = re.sub(
            r"^from cloudq\.contrib\.celery import (.*)get_task_logger, (.*)$",
            r"from celery import \1\2\nfrom celery.utils.log import get_task_logger",
            text,
            flags=re.M,
        )
        path.write_text(moved.replace("cloudq.contrib.celery", "celery"))


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        # A warm stop waits for the receive under way.
        "CLOUDQ_WORKER_POLL_WAIT": "1",
        "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }


def _run(folder: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(
            done.returncode, program, output=done.stdout, stderr=done.stderr
        )
    return done.stdout
