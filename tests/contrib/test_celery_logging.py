"""Celery's signals about logging: a program's own set-up holds in all processes of a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudq.contrib.celery import Celery, signals
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE

PROGRAM = """
import logging.config
from cloudq.contrib.celery import Celery, signals
from cloudq.contrib.celery.utils.log import get_task_logger

app = Celery("logs", broker="sqlite:///logs.db")
logger = get_task_logger("logs.of.tasks")

{receiver}

@app.task
def say():
    logger.info("said")
"""

SETUP = """
@signals.setup_logging.connect
def set_up(loglevel=None, **kwargs):
    handler = {"class": "logging.FileHandler", "filename": "own.log", "formatter": "own"}
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"own": {"format": "own %(name)s %(message)s"}},
        "handlers": {"own": handler},
        "loggers": {"": {"handlers": ["own"], "level": loglevel}},
    })
"""

AFTER = """
@signals.after_setup_logger.connect
def add(logger=None, loglevel=None, **kwargs):
    handler = logging.FileHandler("own.log")
    handler.setFormatter(logging.Formatter("own %(name)s %(message)s"))
    logger.addHandler(handler)

@signals.after_setup_task_logger.connect
def tell(logger=None, **kwargs):
    logger.warning("told")
"""


@pytest.mark.parametrize("fork", ["true", "false"])
@pytest.mark.parametrize(("receiver", "both"), [(SETUP, False), (AFTER, True)])
def test_a_worker_logs_as_its_program_sets_up(
    tmp_path: Path, receiver: str, both: bool, fork: str
) -> None:
    (tmp_path / "logs.py").write_text(PROGRAM.replace("{receiver}", receiver))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CLOUDQ_WORKER_FORK": fork}
    errors, own = tmp_path / "worker.log", tmp_path / "own.log"
    line = [sys.executable, "-m", "cloudq", "celery", "-A", "logs", "worker", "-l", "INFO", "-c1"]
    with errors.open("wb") as file:
        worker = subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=file)
    try:
        subprocess.run(
            [sys.executable, "-c", "import logs; logs.say.delay()"],
            cwd=tmp_path,
            env=environment,
            check=True,
        )
        eventually(lambda: own.exists() and "own logs.of.tasks said" in own.read_text())
        assert "own cloudq.worker" in own.read_text()
        assert ("said" in errors.read_text()) is both
        assert ("told" in own.read_text()) is both
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
    finally:
        worker.kill()
        worker.wait()


def test_a_program_that_only_sends_is_told_nothing() -> None:
    def told(**given: object) -> None:
        raise AssertionError("no worker has set up logging here")

    signals.setup_logging.connect(told)
    try:
        with Celery("sends", broker="memory://sends") as app:
            app.load()
    finally:
        signals.setup_logging.disconnect(told)
