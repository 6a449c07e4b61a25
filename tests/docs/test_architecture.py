"""Everything that docs/architecture.md names exists: files, functions, and the code's rooms."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.rooms import layers

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PLACES = "cloudq|adapters|deploy|tests|docs|localstack"
NAMED = sorted(set(re.findall(r"`([\w/.-]+\.py): ([\w.]+)`", PAGE)))


def test_every_path_on_the_page_exists() -> None:
    paths = set(re.findall(rf"`((?:{PLACES})/[\w./-]*)(?:: [\w.]+)?`", PAGE))
    assert len(paths) > 60
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{f}:{n}" for f, n in NAMED])
def test_every_function_on_the_page_exists(file: str, name: str) -> None:
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
    for part in name.split("."):
        found = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == part
        ]
        assert found, f"{file} has no {name}"
        body = found[0].body


def test_every_room_is_in_the_picture() -> None:
    drawn = {line[2:].split()[0] for line in PAGE.splitlines() if re.match(r"\| [a-z]\w* ", line)}
    here = {path.stem for path in (ROOT / "cloudq").iterdir() if path.suffix in {"", ".py"}}
    rooms = {room for layer in layers() for room in layer}
    assert rooms <= drawn
    assert here - {"__init__", "__main__", "__pycache__", "py"} == rooms


def test_the_table_has_every_change_that_is_asked_for() -> None:
    asked = (
        *("add a broker", "add a task option", "add an outcome", "add a field of the wire"),
        *("add a worker command", "add a task state", "add a metric", "add a deploy target"),
        *("add a serializer", "add a setting", "change the back-off of task retries"),
        "mend a chord",
    )
    assert [change for change in asked if f"| {change} |" not in PAGE] == []
