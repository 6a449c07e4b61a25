"""Commands load only what they need, and read options as typer does without what it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cloudq.cli.coercion import spare_pydantic
from cloudq.cli.overview import OPTIONS, SECTIONS, overview
from cloudq.cli.program import COMMANDS, program


def loaded_by(words: list[str], folder: Path) -> set[str]:
    code = (
        "import sys; from cloudq.cli import main; code = main(sys.argv[1:]);"
        "print('LOADED', code, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, *modules = done.stdout.rpartition("LOADED ")[2].split()
    assert code == "0", done.stderr
    return set(modules)


def test_the_version_is_told_without_loading_the_program(tmp_path: Path) -> None:
    loaded = loaded_by(["--version"], tmp_path)
    assert not {"typer", "cloudq.cli.program", "cloudq.app", "inspect"} & loaded


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_help_is_told_without_loading_the_program(tmp_path: Path, words: list[str]) -> None:
    loaded = loaded_by(words, tmp_path)
    assert not {"typer", "rich", "cloudq.cli.program", "cloudq.app", "inspect"} & loaded


def test_the_help_has_every_command_and_option() -> None:
    told = [name for section in SECTIONS.values() for name in section]
    assert sorted(told) == sorted(COMMANDS), "cloudq/cli/overview.py tells of each command once"
    whole = typer.main.get_command(program(()))
    options = {name for option in whole.params for name in option.opts} | {"-h", "--help"}
    shown = {word.strip(",") for words in OPTIONS for word in words.split() if word[0] == "-"}
    assert shown == options


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_help_fits_the_terminal(width: int) -> None:
    lines = overview(width, bold=False).splitlines()
    assert max(map(len, lines)) <= max(min(width, 100), 50)
    assert any(line.startswith("  worker  ") for line in lines)


def test_a_list_of_queues_draws_nothing_and_validates_nothing(tmp_path: Path) -> None:
    words = ["queues", "list", "--names", "-b", f"sqlite:///{tmp_path}/queues.db"]
    (tmp_path / "queues.db").touch()
    late = {"pydantic", "rich.console", "importlib.metadata", "asyncio", "psutil", "boto3"}
    late |= {"cloudq.worker", "cloudq.execution.executor", "multiprocessing"}
    assert not late & loaded_by(words, tmp_path)


VALUES: list[Any] = [
    *(None, True, False, "", "a", "0", "1", "007", "-1", "1.5", ".5", "1e3", "nan", "9" * 12),
    *("info", "INFO", "text", "threads", "no/such/file", ".", __file__, "on", "yes", b"a"),
    *((), [], ("a",), ("1", "2"), ["a", "b"], 0, 3, 2.5, 10**9),
]


def options_of(command: Any) -> Iterator[Any]:
    context = typer.Context(command)
    yield from command.get_params(context)
    for inner in getattr(command, "commands", {}).values():
        yield from options_of(inner)


def read(option: Any, value: Any) -> Any:
    context = typer.Context(typer.main.get_command(program(())))
    try:
        made = option.get_runtime_param().coerce(value, param=option, ctx=context)
    except Exception as error:
        # What is wrong with a number is said in words of ours.
        return type(error), "" if option.type_descriptor.annotation in (int, float) else str(error)
    return type(made), repr(made)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_read_as_typer_reads_it(name: str) -> None:
    seen: set[str] = set()
    ours = options_of(typer.main.get_command(program([name])))
    typers = options_of(typer.main.get_command(program([name])))
    for mine, other in zip(ours, typers, strict=True):
        known = f"{mine.type_descriptor.annotation} {vars(mine.type_descriptor.parameter_info)}"
        if known in seen:
            continue
        seen.add(known)
        spare_pydantic(mine)
        for value in VALUES:
            assert read(mine, value) == read(other, value), (mine.name, value)
    assert seen
