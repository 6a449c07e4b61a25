"""A small project on disk, and the command line run on it as a user would."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from tests.support.forge import Forge

SHOP = """
from cloudq import CloudQ

app = CloudQ("shop", broker="sqlite:///shop.db")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(queue="mail")
def send(to: str) -> str:
    return to


@app.task(dead_letter=True, max_retries=0)
def fail(what: str) -> None:
    raise ValueError(what)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return orjson.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Ran]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def command(project: Path, forge: Forge) -> Run:
    """Run `cloudq ...` in the project; `env` is added, and None takes a variable away."""

    def run(*args: str, env: dict[str, str | None] | None = None, stdin: str = "") -> Ran:
        given = {**os.environ, **(env or {})}
        kept = {key: value for key, value in given.items() if value is not None}
        done = forge.run(args, cwd=project, env=kept, stdin=stdin)
        return Ran(code=done.returncode, out=done.stdout, err=done.stderr)

    return run
