"""`cloudq init`: makes a new project that runs at once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import typer

from cloudq.cli.output import say
from cloudq.errors import ConfigurationError
from cloudq_deploy.pyproject import own_runtime

# Placeholders in the templates.
_PACKAGE, _NAME, _PYTHON = "PACKAGE", "PROJECT", "PYTHON"
_TAKEN = frozenset({"cloudq", "test", "tests", "boto3", "pydantic"})


def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the project and of its folder.")
    ],
    folder: Annotated[
        Path | None, typer.Option("--in", help="Folder to write to. Default: NAME.")
    ] = None,
) -> None:
    """Make a new project: tasks, tests, a Makefile, and the settings of a deployment."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,38}", name) or keyword.iskeyword(package):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a project: use a-z, 0-9 and -, a letter first, 39 at "
            "most, and no word of Python"
        )
    if package in _TAKEN:
        raise ConfigurationError(
            f"{name!r} is the name of a package that the project needs: choose another name"
        )
    target = folder or Path(name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(
            f"{target} exists already: nothing was written; choose another name, or --in FOLDER"
        )
    words = {_PACKAGE: package, _NAME: name, _PYTHON: own_runtime().removeprefix("python")}
    for path, text in _templates(files("cloudq_deploy") / "scaffold", ""):
        written = target / _filled(path, words)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(_filled(text, words))
        say(f"wrote {written}")
    tests = "make test" if find_spec("pytest") else "pip install pytest && make test"
    say(f"cd {target} && {tests}, then make worker in one terminal and make call in another")


def _templates(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=attrgetter("name")):
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _templates(entry, f"{path}/")
        elif entry.name.endswith(".template"):
            yield path.removesuffix(".template"), entry.read_text()


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"__{word}__", value)
    return text
