"""Type checkers see the parameters of tasks in calls, results and workflows."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

USAGE = Path(__file__).with_name("usage.py")
ROOT = Path(__file__).parents[2]
PACKAGES = ("cloudq", "cloudq_local", "cloudq_aws", "cloudq_gcp", "cloudq_azure", "cloudq_deploy")


def refused() -> set[int]:
    """Return the lines that a checker has to refuse."""
    lines = USAGE.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}


def told(command: Sequence[str], pattern: str) -> dict[int, str]:
    """Run a checker on the examples; return the first error of each line."""
    done = subprocess.run(
        [sys.executable, "-m", *command, str(USAGE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found: dict[int, str] = {}
    for match in re.finditer(pattern, done.stdout, re.MULTILINE):
        found.setdefault(int(match[1]), match[2])
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        (("pyright", "--pythonpath", sys.executable), r"usage\.py:(\d+):\d+ - error: (.*)$"),
        (
            ("mypy", "--strict", "--follow-imports=silent", "--cache-dir=.state/mypy"),
            r"usage\.py:(\d+): error: (.*)$",
        ),
    ],
    ids=["pyright", "mypy"],
)
def test_a_checker_refuses_what_is_wrong_and_nothing_else(
    command: Sequence[str], pattern: str
) -> None:
    found, expected = told(command, pattern), refused()
    assert {line: why for line, why in found.items() if line not in expected} == {}
    assert sorted(expected - found.keys()) == []


@pytest.mark.slow
def test_every_package_of_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q"]
    done = subprocess.run(
        [*build, "-w", str(tmp_path), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {name.partition("/")[0] for name in names if name.endswith(".py")} == {*PACKAGES}
