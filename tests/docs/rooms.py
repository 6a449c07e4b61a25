"""The picture of the rooms in docs/architecture.md, drawn from the code and its import contract."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[2]
_WIDTH = 96
_NAME = 12
_ADAPTERS = ("cloudq_local", "cloudq_aws", "cloudq_gcp", "cloudq_azure")


def picture() -> Iterator[str]:
    """A box for each layer, the upper above the lower; in it each room, its purpose and imports."""
    yield "```text"
    yield _edge()
    for layer in layers():
        yield from _box(layer)
    yield "^  implement the protocols of driver; found by entry points".center(_WIDTH).rstrip()
    yield _edge()
    for package in _ADAPTERS:
        yield from _room(package, ROOT / "adapters" / package, ())
    yield _edge()
    yield "```"


def layers() -> list[list[str]]:
    """The rooms of each layer, from the top, as import-linter enforces them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    contract = next(each for each in contracts if each["type"] == "layers")
    return [
        [name.strip().removeprefix("cloudq.") for name in re.split(r"[|:]", line)]
        for line in contract["layers"]
    ]


@cache
def imports(room: str) -> frozenset[str]:
    """The other rooms that the files of a room import."""
    found: set[str] = set()
    for file in _files(ROOT / "cloudq" / room):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "cloudq":
                found |= {f"cloudq.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    rooms = {room for layer in layers() for room in layer}
    parts = {name.split(".")[1] for name in found if name.startswith("cloudq.")}
    return frozenset(parts & rooms - {room})


def _box(layer: Sequence[str]) -> Iterator[str]:
    order = [room for each in layers() for room in each]
    for room in layer:
        used = [name for name in order if name in imports(room)]
        yield from _room(room, ROOT / "cloudq" / room, used)
    yield _edge()


def _room(name: str, place: Path, used: Sequence[str]) -> Iterator[str]:
    lines = wrap(_caption(place), _WIDTH - _NAME - 5)
    if used:
        lines += wrap(f"-> {', '.join(used)}", _WIDTH - _NAME - 5, subsequent_indent="   ")
    for number, line in enumerate(lines):
        yield f"| {'' if number else name:<{_NAME}} {line:<{_WIDTH - _NAME - 5}} |"


def _edge() -> str:
    return f"+{'-' * (_WIDTH - 2)}+"


def _files(place: Path) -> list[Path]:
    single = place.with_suffix(".py")
    return [single] if single.is_file() else sorted(place.rglob("*.py"))


def _caption(place: Path) -> str:
    """The first paragraph of the docstring of a room."""
    single = place.with_suffix(".py")
    file = single if single.is_file() else place / "__init__.py"
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())
