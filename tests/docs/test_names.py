"""Pages name what the code has: no module that is gone, and every option, state and command."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

from cloudq.cli.program import COMMANDS, program
from cloudq.results.record import State
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.options import TaskOptions

ROOT = Path(__file__).resolve().parents[2]
# The log of changes tells of names as they were then.
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md"})
HOW_TO = "\n".join(page.read_text() for page in (ROOT / "docs" / "how-to").glob("*.md"))
FILES = ROOT / "cloudq" / "cli" / "commands"
# Names of files, and of loggers that handlers of all clouds write to.
NOT_CODE = {"cloudq.audit", "cloudq.db", "cloudq.toml", "cloudq.functions", "cloudq.lambda"}
NOT_CODE |= {
    "cloudq.E001",
    "cloudq.E002",
    "cloudq.E003",
    "cloudq.W001",
    "cloudq.W002",
}  # of Django's checks


def exists(name: str) -> bool:
    """Tell whether a dotted name leads to a module, or to something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_dotted_name_on_a_page_exists(page: Path) -> None:
    named = set(re.findall(r"`(cloudq(?:\.\w+)+)\b", page.read_text()))
    known = NOT_CODE | entry_points().groups
    assert sorted(name for name in named - known if not exists(name)) == []


@pytest.mark.parametrize("options", [TaskOptions, CallOptions])
def test_every_option_is_in_a_guide(options: type[object]) -> None:
    names = options.__annotations__
    missing = [name for name in names if not re.search(rf"`{name}`|\b{name}=", HOW_TO)]
    assert missing == []


@pytest.mark.parametrize("page", ["how-to/write-and-call-tasks", "reference/python-api"])
def test_every_state_is_on_the_pages_that_list_them(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert [state for state in State if f"`{state}`" not in text] == []


def test_every_command_is_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    group: Any = typer.main.get_command(program())
    assert sorted(group.commands) == sorted(COMMANDS), "a module adds what its line does not name"
    assert [name for name in group.commands if f"cloudq {name}" not in text] == []


def test_every_file_of_a_command_is_used() -> None:
    files = {file.stem for file in FILES.glob("*.py")} - {"__init__"}
    # A group of commands may lie in more than one file: the group then imports the others.
    others = "\n".join(file.read_text() for file in FILES.glob("*.py"))
    unused = [
        name
        for name in sorted(files - set(COMMANDS))
        if not re.search(
            rf"^from cloudq\.cli\.commands(?: import {name}|\.{name} import .*)$",
            others,
            re.MULTILINE,
        )
    ]
    assert unused == []
