"""The command line as somebody meets it in the first hour: guessing, mistyping, and looking."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.amounts import counted, span
from cloudq.cli import main
from cloudq.errors import did_you_mean, near
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.testing import drain

TASKS = """
from datetime import datetime
from cloudq import CloudQ

app = CloudQ("shop")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(bind=True)
def greet(self, name: str, times: int | None = None, *tags: str, loud: bool = False) -> str:
    return name


@app.task
def free(anything, at: datetime, ratio: float = 0.5, **more: object) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in os.environ if name.startswith("CLOUDQ_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    for name in ("tasks", "app", "shop", "shop.tasks"):
        sys.modules.pop(name, None)


def sent(task: str, *words: str) -> tuple[list[object], dict[str, object]]:
    """Call a task from the command line, and return the arguments that were sent."""
    assert main(["call", task, *words]) == 0
    with CloudQ("look", broker="sqlite:///cloudq.db") as app:
        [delivery] = app.broker.receive("default", count=1, wait=0.0, lease=5)
        app.broker.ack([delivery])
        message = app.runtime.codec.decode(delivery.body, queue="default", limit=10_000)
    return list(message.args), dict(message.kwargs)


# ---- the words of a call


@pytest.mark.parametrize(
    ("words", "args", "kwargs"),
    [
        (("tasks.add", "2", "3"), [2, 3], {}),
        (("tasks.add", "x=2", "y=3"), [], {"x": 2, "y": 3}),
        (("tasks.add", "2", "y=-3"), [2], {"y": -3}),
        (("tasks.add", "-2"), [-2], {}),
        (("tasks.greet", "5"), ["5"], {}),
        (("tasks.greet", "name=null"), [], {"name": "null"}),
        (("tasks.greet", '"5"', "null", "1", "true"), ["5", None, "1", "true"], {}),
        (("tasks.greet", "a=b", "loud=true"), ["a=b"], {"loud": True}),
        (("tasks.free", "[1]", "2030-01-01T12:00", "1"), [[1], "2030-01-01T12:00", 1], {}),
        (("tasks.free", "x", "more=1"), ["x", "more=1"], {}),
    ],
)
def test_hints_say_what_a_word_is(
    folder: Path, words: tuple[str, ...], args: list[object], kwargs: dict[str, object]
) -> None:
    assert sent(*words) == (args, kwargs)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tasks.add", "two", "3"), "tasks.add: x is 'two', and its type is int (--args takes"),
        (("tasks.add", "true"), "x is 'true', and its type is int"),
        (("tasks.add", "1.5"), "x is '1.5', and its type is int"),
        (("tasks.greet", "a", "much"), "times is 'much', and its type is int or null"),
        (("tasks.greet", "a", "loud=yes"), "loud is 'yes', and its type is bool"),
        (("tasks.add", "1", "x=2"), "multiple values for argument 'x'"),
        (("tasks.ad", "1"), "did you mean tasks.add? (--force"),
        (("tasks.zzz",), "has no task 'tasks.zzz': it has tasks.add, tasks.free, tasks.greet (--"),
    ],
)
def test_a_word_that_cannot_be_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert main(["call", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_wait_that_nobody_answers_says_who_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudq.cli.commands.call._UNANSWERED", 0.05)
    assert main(["call", "tasks.add", "1", "--wait", "0.1"]) == 1
    said = capsys.readouterr().err
    assert "no live worker reads the queue 'default': `cloudq worker -Q default` starts one" in said
    assert "had not ended after 0.1 s" in said
    with CloudQ("w", broker="sqlite:///cloudq.db") as app:
        app.control.heartbeats.beat(Heartbeat(hostname="a", seen=2e9 * 2, queues=["default"]))
    assert main(["call", "tasks.add", "1", "--wait", "0.1"]) == 1
    assert "no live worker" not in capsys.readouterr().err


def test_times_are_given_as_people_write_them(folder: Path) -> None:
    assert main(["call", "tasks.add", "1", "--countdown", "2m", "--expires", "10m"]) == 0
    with CloudQ("look", broker="sqlite:///cloudq.db") as app:
        assert app.broker.receive("default", count=1, wait=0.0, lease=5) == []
        with app.broker.asking("look at", "default") as admin:
            assert admin.stats("default").delayed == 1


def test_a_wait_for_a_result_needs_no_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with CloudQ("shop", broker="sqlite:///cloudq.db") as app:
        task = app.task(name="twice")(lambda n: 2 * n)
        result = task.delay(4)
        drain(app)
    assert main(["result", "--wait", result.id]) == 0
    assert main(["result", result.id, "--wait"]) == 0
    assert main(["result", result.id, "--wait", "2m"]) == 0
    assert capsys.readouterr().out.count("value     8") == 3


def read_all(terminal: int) -> str:
    """Read what was written to the other end of a terminal that is closed."""
    found = b""
    with os.fdopen(terminal, "rb", buffering=0) as end, suppress(OSError):
        while part := end.read(65536):
            found += part
    return found.decode()


def at_a_terminal(folder: Path, *words: str) -> str:
    main_end, other = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "cloudq", *words],
        cwd=folder,
        stdout=other,
        stderr=other,
        timeout=60,
        check=False,
    )
    os.close(other)
    shown = read_all(main_end)
    assert done.returncode == 0, shown
    return shown


def test_a_call_at_a_terminal_names_the_next_command(folder: Path) -> None:
    shown = at_a_terminal(folder, "call", "-A", "tasks:app", "tasks.add", "2")
    assert "its result: cloudq result -A tasks:app --wait " in shown


# ---- the app that a folder has


def test_the_app_of_the_folder_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "tasks.add", "2"]) == 0
    assert "using the app in tasks.py (-A names another)" in capsys.readouterr().err
    (folder / "shop.py").write_text(TASKS.replace('"shop"', '"other"'))
    (folder / "pyproject.toml").write_text('[tool.cloudq]\napp = "shop:app"\n')
    assert main(["call", "shop.add", "2"]) == 0
    assert "using" not in capsys.readouterr().err
    (folder / "pyproject.toml").write_text("[tool.cloudq]\napp = 5\n")
    assert main(["call", "shop.add", "2"]) == 2
    assert '[tool.cloudq] app: give "module:app", not 5' in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["from flask import Flask\napp = Flask('x')\n", "import cloudq\n", "\xff\n"]
)
def test_a_file_that_makes_no_app_is_not_imported(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (folder / "tasks.py").unlink()
    (folder / "app.py").write_bytes(text.encode("latin-1") + b"open('ran', 'w')\n")
    assert main(["call", "tasks.add", "2"]) == 2
    assert "a tasks.py or app.py that makes one is found by itself" in capsys.readouterr().err
    assert not (folder / "ran").exists()


def test_a_broker_that_is_named_needs_no_app(folder: Path) -> None:
    (folder / "cloudq.db").touch()
    (folder / "tasks.py").write_text(TASKS + "raise RuntimeError\n")
    assert main(["queues", "list", "-b", "sqlite:///cloudq.db"]) == 0
    assert main(["queues", "list"]) == 2


# ---- a file that is not there


@pytest.mark.parametrize(
    "words",
    [
        ("result", "x"),
        ("graph", "x"),
        ("status",),
        ("events", "-n", "1"),
        ("inspect", "ping"),
        ("control", "revoke", "x"),
        ("sweep",),
        ("schedules", "list", "-A", "tasks"),
        ("migrate", "sqlite:///clodq.db", "sqlite:///other.db"),
    ],
)
def test_a_command_that_reads_makes_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main([*words, "-b", "sqlite:///clodq.db"]) == 2
    assert "there is no file " in capsys.readouterr().err
    assert not [*folder.glob("*.db")]


# ---- what is nearly right


def test_a_revocation_of_an_unknown_task_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cloudq.db").touch()
    assert main(["control", "revoke", "nope"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "nope: revoked\n"
    assert "nothing is recorded of nope: it will not start, if there is such a" in captured.err


def test_a_mistyped_command_names_those_of_its_kind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cloudq.db").touch()
    assert main(["inspect", "actve"]) == 2
    assert capsys.readouterr().err == ("error: there is no command 'actve': did you mean active?\n")
    assert main(["inspect", "zzzz"]) == 2
    said = capsys.readouterr().err
    assert "known: ping, active" in said
    assert "revoke," not in said


def test_only_close_names_are_offered() -> None:
    assert near("mial", ["mail", "default"]) == "mail"
    assert near("acks_late", ["track_started", "time_limit"]) is None
    assert did_you_mean("zzz", ["add"], otherwise="it has add") == "it has add"


# ---- notes, where they matter


def test_notes_are_about_what_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cloudq.db").touch()
    assert main(["schedules", "list"]) == 0
    assert "no beat" not in capsys.readouterr().err
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        "no live worker found in this store: `cloudq worker` starts one\n"
    )
    with CloudQ("w", broker="sqlite:///cloudq.db") as app:
        app.control.heartbeats.beat(Heartbeat(hostname="a", seen=4e9, queues=["default"]))
    assert main(["status"]) == 0
    assert "functions" not in capsys.readouterr().err


def test_doctor_says_that_nobody_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cloudq.db").touch()
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "workers of default: no live worker reads the queue 'default' - `cloudq worker" in shown
    assert "no problems found" not in shown
    with CloudQ("w", broker="sqlite:///cloudq.db") as app:
        app.control.heartbeats.beat(Heartbeat(hostname="a", seen=4e9, queues=["default"]))
    assert main(["doctor"]) == 0
    assert "no problems found" in capsys.readouterr().out


def test_amounts_are_written_as_people_do() -> None:
    assert counted(1, "task") == "1 task"
    assert counted(0, "task") == "0 tasks"
    assert counted(2000, "process", "processes") == "2,000 processes"
    assert [span(text) for text in ("90s", "1.5m", " 2h ", "3d", "5", "x", "5x", "٣s")] == [
        *(90, 90, 7200, 259_200),
        *(None, None, None, None),
    ]


# ---- narrow terminals

ROWS = """
from cloudq.cli.output import table
id = "01a22c62-01f9-7271-97d5-38e6f5858999"
rows = [(id, "shop.tasks.send_invoice", 12, "a long reason why")]
table(("ID", "TASK", "TRIES", "REASON"), rows, empty="none")
"""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_breaks_no_word(folder: Path, width: int) -> None:
    main_end, other = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width)}
    subprocess.run(
        [sys.executable, "-c", ROWS], stdout=other, timeout=60, check=True, env=environment
    )
    os.close(other)
    shown = read_all(main_end)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    words = {word for line in lines for word in line.split()}
    assert {"shop.tasks.send_invoice", "01a22c62-01f9-7271-97d5-38e6f5858999", "reason"} <= words
    assert max(len(line.rstrip()) for line in lines) <= width
    is_table = lines[0].split() == ["ID", "TASK", "TRIES", "REASON"]
    assert is_table == (width > 60)


def test_a_result_of_which_nothing_is_recorded_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with CloudQ("shop", broker="sqlite:///cloudq.db") as app:
        done = app.task(name="twice")(lambda n: 2 * n).delay(4)
        drain(app)
    assert main(["result", done.id]) == 0
    assert main(["result", done.id, "nope"]) == 1
    assert "nothing is recorded of nope: not finished, or no such task" in capsys.readouterr().err
