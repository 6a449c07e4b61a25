"""A command that is forked does what one from scratch does, and a fork that is lost is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forge import Forge

APP = ("-A", "shop")
TOLD = """
import os, signal, sys
from shop import app
print(os.getcwd(), sys.path[0], sys.argv[1:], sys.stdin.read(), os.environ.get("TOLD"))
print([sys.stdin.isatty(), sys.stdout.line_buffering, sys.stderr.line_buffering])
print(sys.modules["__main__"].__spec__.name, signal.getsignal(signal.SIGINT))
"""


@pytest.mark.parametrize(
    "words",
    [
        ("call", "-A", "told", "shop.add", "1", "2", "--task-id", "mine"),
        ("call", "-A", "told", "shop.add", "1"),
        ("queues", "purge", *APP, "default"),
        ("quues",),
    ],
)
def test_it_is_as_one_from_scratch(project: Path, forge: Forge, words: tuple[str, ...]) -> None:
    (project / "told.py").write_text(TOLD)
    env = {**os.environ, "TOLD": "an ü"}
    forked = forge.run(words, cwd=project, env=env, stdin="given\n")
    scratch = subprocess.run(
        [sys.executable, "-m", "cloudq", *words],
        cwd=project,
        env=env,
        input="given\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        scratch.returncode,
        scratch.stdout,
        scratch.stderr,
    )


def test_one_that_is_killed_says_by_what(project: Path, forge: Forge) -> None:
    (project / "fatal.py").write_text("import os; os.kill(os.getpid(), 9)")
    ran = forge.run(("call", "-A", "fatal", "x"), cwd=project, env=os.environ)
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "")


def test_no_answer_is_no_success(project: Path) -> None:
    forge = Forge()
    (project / "fatal.py").write_text("import os; os.kill(os.getppid(), 9)")
    with pytest.raises(AssertionError, match="has ended: -9"):
        forge.run(("call", "-A", "fatal", "x"), cwd=project, env=os.environ)
    forge.close()
