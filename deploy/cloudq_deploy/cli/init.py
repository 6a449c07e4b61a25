"""`cloudq init`: a new project that runs at once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from cloudq.cli.output import say
from cloudq.errors import ConfigurationError
from cloudq_deploy.pyproject import own_runtime

# What the templates call what the user names.
_PACKAGE, _NAME, _PYTHON = "PACKAGE", "PROJECT", "PYTHON"
_TAKEN = frozenset({"cloudq", "test", "tests", "boto3", "pydantic"})


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the project and its folder.")],
    folder: Annotated[
        Path | None, typer.Option("--in", help="Where to; else a folder of that name, here.")
    ] = None,
) -> None:
    """Make a new project: tasks, settings, tests, a Makefile, hints for a deployment."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,38}", name) or keyword.iskeyword(package):
        raise ConfigurationError(
            f"{name!r} cannot name a project: a-z, 0-9 and -, a letter first, 39 at most"
        )
    if package in _TAKEN:
        raise ConfigurationError(f"{name!r} is the name of a package that the project needs itself")
    target = folder or Path(name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} exists already: nothing was written")
    words = {_PACKAGE: package, _NAME: name, _PYTHON: own_runtime().removeprefix("python")}
    for path, text in _templates(files("cloudq_deploy") / "scaffold", ""):
        written = target / _filled(path, words)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(_filled(text, words))
        say(f"wrote {written}")
    say(f"cd {target} && make test, then make worker in one terminal and make call in another")


def _templates(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _templates(entry, f"{path}/")
        elif entry.name.endswith(".template"):
            yield path.removesuffix(".template"), entry.read_text()


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"__{word}__", value)
    return text
