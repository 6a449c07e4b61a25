"""Nothing advises to install `cloudq` from an index: there it is somebody else's package."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from cloudq.errors import DISTRIBUTION, install_hint

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    *("cloudq", "adapters", "deploy", "docs", "examples", "localstack", "benchmarks", "tests"),
    *(".ci", ".github"),
)
KINDS = frozenset(
    {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".template", ""}
)
# Tests of the bundler, which refuses the other project's package, and this one.
ABOUT_THE_OTHER = frozenset({"test_bundle.py", Path(__file__).name})

# `cloudq` as a whole name, not cloudq-tasks, ./cloudq or cloudq.db.
NAME = r"(?<![\w./-])cloudq(?![\w./-])"
ADVICE = re.compile(
    "|".join(
        [
            # A command that installs it, whatever stands between: pip install -U 'cloudq'.
            rf"\b(?:pip3?|pipx|uvx?|poetry|pdm)\b[^\n`]*?\b(?:install|add|download|with)\b"
            rf"[^\n`&;]*?[\s\"'=]{NAME}(?=[\[\s\"'`=<>~!]|$)",
            # A requirement with extras: cloudq[aws]. The extra may be filled in: cloudq[{extra}].
            rf"{NAME}\[[a-z{{]",
            # A requirement with a version: cloudq==0.1, "cloudq>=0.1".
            rf"{NAME}\s*(?:==|>=|~=|!=)\s*\d",
            # A line of a list of dependencies: dependencies = ["cloudq"].
            rf"(?:dependencies|requires|dev|test)\s*=\s*\[[^\]\n]*[\"']{NAME}[\"']",
            # What is read of the installed distribution.
            rf"\b(?:distribution|requires|version|Requirement)\(f?[\"']{NAME}[\"'\[]",
        ]
    ),
    re.MULTILINE,
)
LINE = re.compile(r"^cloudq\s*(?:[\[;=<>~!#].*)?$", re.MULTILINE)
"""A line of a requirements file."""


def advice(text: str, name: str = "page.md") -> list[str]:
    """The places in a file's text that would install the other project's package."""
    found = [match[0] for match in ADVICE.finditer(text)]
    if re.match(r"(?:requirements|constraints).*\.(?:txt|lock|in|template)", name):
        found += [match[0] for match in LINE.finditer(text)]
    return found


def files() -> Iterator[Path]:
    """Every page, message and template: all text of the project."""
    tops = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    below = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file()]
    for path in (*tops, *below):
        if path.suffix in KINDS and "__pycache__" not in path.parts:
            yield path


def test_nothing_advises_the_other_package() -> None:
    looked_at = [path for path in files() if path.name not in ABOUT_THE_OTHER]
    found = {
        str(path.relative_to(ROOT)): lines
        for path in looked_at
        if (lines := advice(path.read_text(errors="ignore"), path.name))
    }
    assert found == {}
    names = {str(path.relative_to(ROOT)) for path in looked_at}
    expected = {"README.md", "docs/how-to/run-on-aws.md", "pyproject.toml", "Makefile", ".ci/run"}
    assert expected <= names
    assert "cloudq/driver.py" in names or "cloudq/driver/__init__.py" in names
    assert "deploy/cloudq_deploy/scaffold/pyproject.toml.template" in names


@pytest.mark.parametrize(
    "text",
    [
        "pip install cloudq",
        "$ pip install -U cloudq\n",
        "python -m pip install 'cloudq'",
        'pip install "cloudq[aws]"',
        "pip install 'cloudq[deploy,{extra}]'",
        'f"{extra} is missing: pip install cloudq[{extra}]"',
        "uv pip install --target build cloudq==0.1.0",
        "uv add cloudq",
        "uvx --with cloudq pytest",
        "RUN pip install boto3 cloudq",
        'dependencies = ["cloudq"]',
        'dependencies = ["pytest", "cloudq[aws]"]',
        'dev = ["cloudq>=0.1", "pytest"]',
        "tracing needs cloudq[otel]",
        'metadata.version("cloudq")',
        'distribution("cloudq")',
    ],
)
def test_advice_would_be_found(text: str) -> None:
    assert advice(text) != []


@pytest.mark.parametrize("line", ["cloudq", "cloudq[aws]", "cloudq==0.1.0 # ours", "a\ncloudq\nb"])
def test_a_line_of_a_requirements_file_would_be_found(line: str) -> None:
    assert advice(line, "requirements.txt") != []


@pytest.mark.parametrize(
    "text",
    [
        'pip install "cloudq-tasks[aws]"',
        "pip install .",
        "pip install '.[aws]'",
        "pip install ./cloudq",
        '--only-binary :all: "./cloudq[aws]"',
        "cloudq worker -A tasks",
        "cloudq_tasks-0.1.0.dist-info",
        "install it, then start `cloudq worker`",
        "[tool.cloudq.deploy]",
    ],
)
def test_what_is_right_is_left_alone(text: str) -> None:
    assert advice(text) == []


def test_the_name_is_that_of_the_project_and_of_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    assert project["scripts"] == {"cloudq": "cloudq.cli:main"}
    assert metadata.version(DISTRIBUTION) == project["version"]
    assert install_hint("aws", "deploy") == 'pip install "cloudq-tasks[aws,deploy]"'


def test_the_classifiers_name_the_pythons_that_the_constraints_hold_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    named = [line.removeprefix(prefix) for line in project["classifiers"] if prefix in line]
    assert named == ["11", "12", "13", "14"]
    assert project["requires-python"] == ">=3.11"
    assert "on Python 3.11 to 3.14" in (ROOT / "constraints.txt").read_text()
