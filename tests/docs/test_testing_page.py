"""The tests that docs/how-to/test-tasks.md shows pass, in a project set up as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cloudq.testing.waiting import PATIENCE
from tests.docs.blocks import blocks, session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "test-tasks.md"


def test_the_tests_on_the_page_pass(tmp_path: Path) -> None:
    written = 0
    for block in blocks(PAGE):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
            written += len(re.findall(r"^def test_", block.text, re.MULTILINE))
        elif block.language == "toml":
            (tmp_path / "pyproject.toml").write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-Werror", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert f"= {written} passed" in done.stdout, done.stdout + done.stderr
    assert written > 10


def test_the_page_runs_without_pytest_too(tmp_path: Path) -> None:
    plain = [b for b in blocks(PAGE) if b.language == "python" and not b.file]
    assert plain
    with session("docs_testing", tmp_path) as shared:
        for block in plain:
            shared.run(block, PAGE)
