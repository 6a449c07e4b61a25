"""Priorities and unique calls from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cloudq.testing.waiting import PATIENCE

APP = ("-A", "shop:app")
PRIOR = {"CLOUDQ_PRIORITY_QUEUES": '["default"]'}


def test_a_priority_is_sent_where_there_is_one(command, project: Path):
    low = command("call", *APP, "shop.add", "1", "2", "--priority", "0", env=PRIOR)
    high = command("call", *APP, "shop.add", "3", "4", "--priority", "9", env=PRIOR)
    assert (low.code, high.code) == (0, 0)
    refused = command("call", *APP, "shop.add", "1", "2", "--priority", "9")
    assert refused.code != 0
    assert "queue 'default' has no priorities" in refused.err
    with (project / "worker.log").open("wb") as log:
        args = [sys.executable, "-m", "cloudq", "worker", *APP, "-c", "1", "-t", "1"]
        worker = subprocess.Popen(
            args, cwd=project, stderr=log, env={**os.environ, **PRIOR}, stdin=subprocess.DEVNULL
        )
    try:
        for sent, value in ((low, 3), (high, 7)):
            id = sent.out.strip()
            read = command("result", *APP, id, "--wait", "60", "--json")
            assert read.json["value"] == value
    finally:
        worker.terminate()
        worker.wait(PATIENCE)
    banner = (project / "worker.log").read_text()
    assert "default-high" in banner
    assert "default-low" in banner


def test_queues_of_all_levels_are_made(command):
    made = command("queues", "create", *APP, env=PRIOR)
    assert made.code == 0, made.err
    listed = command("queues", "list", *APP, env=PRIOR).out
    assert all(name in listed for name in ("default-high", "default-low", "mail"))


def test_a_unique_call_is_sent_once(command):
    ids = {
        command("call", *APP, "shop.add", "1", "2", "--unique-key", "k").out.strip()
        for _ in range(2)
    }
    assert len(ids) == 1
