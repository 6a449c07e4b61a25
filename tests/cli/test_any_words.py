"""Each command, whatever is there, with no words at all and with the name of a file that is not."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cloudq.cli import main
from cloudq.cli.program import program

TASKS = """
from cloudq import CloudQ

app = CloudQ("shop")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task
def count(x: int, **more: int) -> int:
    return x
"""
# What sends, runs or makes, and so may make the file of its broker; or what serves until it is
# stopped.
MAKES = frozenset(
    {
        *("worker", "beat", "call", "demo", "dashboard", "init", "queues create"),
        *("schedules add", "schedules run-now", "schedules plan", "schedules apply"),
    }
)
# What acts on no broker of its own, or on the clouds.
APART = ("multi", "deploy", "brokers", "migrate")
# What asks neither a broker nor a store.
LOOKS_AT_NONE = ("keys new", "keys list")
# Words that a command wants to go on; of others, any do.
WORDS = {
    ("inspect",): ["ping"],
    ("control",): ["revoke", "x"],
    ("celery",): ["purge", "--force"],
    ("dead", "redrive"): ["--all"],
    ("dead", "delete"): ["--all"],
}


def leaves(command: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk the commands of a program, with the words that name each."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield before, command
        return
    for name, each in inner.items():
        yield from leaves(each, *before, name)


LEAVES = dict(leaves(typer.main.get_command(program())))
READS = [
    words
    for words in LEAVES
    if words[0] not in APART and " ".join(words) not in {*MAKES, *LOOKS_AT_NONE}
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "cloudq.db").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    key = base64.b64encode(bytes(32)).decode()
    monkeypatch.setenv("CLOUDQ_ENCRYPTION_KEYS", json.dumps({"k1": key}))
    yield tmp_path
    sys.modules.pop("tasks", None)


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_a_command_that_looks_makes_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    wanted = [each for each in LEAVES[words].params if each.required]
    given = WORDS.get(words) or ["x" for each in wanted if each.param_type_name == "argument"]
    code = main([*words, *given, "-A", "tasks", "-b", "sqlite:///clodq.db"])
    shown = capsys.readouterr()
    assert not (folder / "clodq.db").exists()
    assert "is cloudq.db meant?" in shown.out + shown.err
    assert code == (0 if words == ("doctor",) else 2)


@pytest.mark.parametrize(
    "words", [words for words, command in LEAVES.items() if any(p.required for p in command.params)]
)
def test_a_command_without_its_words_says_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Missing ")
    assert said.endswith(f"(see cloudq {' '.join(words)} --help)\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tasks.add", "2", "z=3"), "tasks.add has no parameter 'z': it has x, y"),
        (("tasks.add", "2", "3", "xx=4"), "tasks.add has no parameter 'xx': it has x, y"),
        (
            ("tasks.count", "n=3"),
            "tasks.count has no parameter 'n' of its own: give it in --kwargs",
        ),
    ],
)
def test_a_name_that_no_parameter_has_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert main(["call", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_broker_that_is_named_is_not_looked_at_for_the_tasks_of_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "-b", "sqlite:///cloudq.db"]) == 0
    assert "skip  app: none given" in capsys.readouterr().out
    assert main(["queues", "create", "-b", "sqlite:///cloudq.db"]) == 2
    assert "no queues given" in capsys.readouterr().err


def test_a_store_that_cannot_be_asked_has_no_live_worker(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "-b", "sqlite:///missing/x.db"]) == 1
    assert "a live worker reads it" not in capsys.readouterr().out


def test_a_doctor_says_that_a_store_alone_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--backend", "sqlite:///clodq.db"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warn backend: there is no file " in said
    assert not (folder / "clodq.db").exists()


def test_the_next_runs_of_the_code_need_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = "from cloudq import every\n\napp.periodic(every(60), name='tidy', args=(1,))(add)\n"
    (folder / "tasks.py").write_text(TASKS + timed)
    words = ("-A", "tasks", "-b", "sqlite:///clodq.db")
    assert main(["schedules", "next", "tidy", "-n", "2", *words]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["schedules", "next", "tidyy", *words]) == 2
    assert "did you mean tidy" in capsys.readouterr().err
    assert not (folder / "clodq.db").exists()
