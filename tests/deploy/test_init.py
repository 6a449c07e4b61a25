"""`cloudq init`: a project that runs at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudq.cli import main


def test_the_tests_of_a_new_project_pass_and_its_tasks_run(shop: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=shop, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    env = os.environ | {"CLOUDQ_APP": "shop.tasks:app"}
    run = [sys.executable, "-m", "cloudq"]
    with subprocess.Popen([*run, "worker", "--pool", "solo"], cwd=shop, env=env) as worker:
        try:
            call = subprocess.run(
                [*run, "call", "shop.tasks.add", "2", "3", "--wait", "60"],
                cwd=shop,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            worker.terminate()
    assert call.stdout.strip() == "5", call.stderr


def test_what_exists_is_left_alone(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (shop / "shop" / "tasks.py").read_text()
    assert main(["init", "shop", "--in", str(shop)]) == 2
    assert "exists already: nothing was written" in capsys.readouterr().err
    assert (shop / "shop" / "tasks.py").read_text() == before


@pytest.mark.parametrize("name", ["Shop", "1shop", "class", "a" * 40, "cloudq", "tests", "a/b"])
def test_what_cannot_name_a_project_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", name]) == 2
    assert list(tmp_path.iterdir()) == []
