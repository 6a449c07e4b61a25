"""Text that strangers write reaches a terminal without its control characters, in every command."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, cli
from cloudq.driver import Outgoing
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.results.record import Record, State
from cloudq.text import one_line

ROOT = Path(cli.__file__).parents[2]
HOSTILE = "\x1b]0;OWNED\x07\x1b[2J\x9b31m\u202e\u2028\r\n12:00:00 INFO forged"
SECRET = "redis://u:hunter2@h?key=hunter2"
# Every C0 but the line break, DEL, C1, and what reverses or breaks a line.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

APP = """
from cloudq import CloudQ

app = CloudQ("shop" + {hostile!r}, broker="sqlite:///shop.db", task_events="final")


@app.task(name="boom" + {hostile!r})
def boom(x=None):
    raise ValueError(x)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose queues, dead letters, records, events and heartbeats hold hostile text."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "shop.py").write_text(APP.format(hostile=HOSTILE))
    with CloudQ("shop", broker=f"sqlite:///{folder / 'shop.db'}", task_events="final") as app:
        for queue in ("default", "q" + HOSTILE):
            _fill(app, queue)
        backend = app.backend
        assert backend is not None
        common: Any = {"task": "boom" + HOSTILE, "queue": HOSTILE, "worker": HOSTILE}
        common |= {"started_at": time.time() - 1, "finished_at": time.time()}
        written = json.dumps({"x": HOSTILE}, ensure_ascii=False)
        failed = Record(
            id="t1",
            state=State.FAILURE,
            error_type="Odd" + HOSTILE,
            error=HOSTILE + SECRET,
            traceback=HOSTILE + SECRET,
            meta=written,
            **common,
        )
        done = Record(id="t2", state=State.SUCCESS, value=written, **common)
        backend.store([failed, done, replace(done, id=HOSTILE)])
        backend.note(failed, json.dumps({"args": [HOSTILE], "kwargs": {}}).encode())
        heart = Heartbeat(
            hostname="w" + HOSTILE,
            seen=time.time(),
            started=time.time(),
            every=3600.0,
            queues=[HOSTILE],
            longest=[[HOSTILE, HOSTILE, time.time()]],
        )
        Heartbeats(backend).beat(heart, first=True)
        task = app.task(name="boom" + HOSTILE)(_boom)
        app.schedules.add("hourly", task.name, timedelta(hours=1), args=[HOSTILE])
    return folder


def _boom(x: object = None) -> None:
    raise ValueError(x)


def _fill(app: CloudQ, queue: str) -> None:
    driver = app.broker.driver
    body = {"v": 1, "id": "n" + HOSTILE, "task": "nope" + HOSTILE, "args": [HOSTILE]}
    messages = [
        Outgoing(id="n" + HOSTILE, body=json.dumps(body).encode()),
        Outgoing(id="raw" + HOSTILE, body=f"no {HOSTILE}".encode()),
    ]
    driver.send(queue, messages)
    taken = driver.receive(queue, count=2, wait=0, lease=30)
    driver.dead_letter(taken, reason=f"it {HOSTILE} {SECRET}")
    driver.send(queue, messages)


QUEUE = "q" + HOSTILE
COMMANDS = [
    ["dead", "list", "default"],
    ["dead", "list", QUEUE, "--json"],
    ["dead", "list", QUEUE, "--task", "x" + HOSTILE],
    ["dead", "show", "default", "n" + HOSTILE],
    ["dead", "show", QUEUE, "raw" + HOSTILE],
    ["dead", "show", QUEUE, "raw" + HOSTILE, "--json"],
    ["dead", "show", "default", "none" + HOSTILE],
    ["dead", "redrive", QUEUE, "--all", "--dry-run"],
    ["dead", "purge", QUEUE],
    ["queues", "list"],
    ["queues", "list", "--json"],
    ["queues", "list", HOSTILE],
    ["queues", "stats", QUEUE],
    ["queues", "peek", "default"],
    ["queues", "peek", QUEUE, "--json"],
    ["queues", "purge", QUEUE],
    ["queues", "create", "made" + HOSTILE],
    ["tasks", "list", "--args"],
    ["tasks", "list", "--args", "--json"],
    ["tasks", "show", "t1", "--args"],
    ["tasks", "show", "t1", "--args", "--json"],
    ["tasks", "show", "none" + HOSTILE],
    ["tasks", "list", "--state", HOSTILE],
    ["tasks", "list", "--since", HOSTILE],
    ["events", "--since", "1h", "--count", "1", "--args"],
    ["events", "--since", "1h", "--count", "1", "--args", "--json"],
    ["result", "t1", "t2", "--traceback"],
    ["result", "t1", "t2", "--json"],
    ["result", HOSTILE],
    ["result", "none" + HOSTILE, "--wait", "0"],
    ["graph", "t1"],
    ["graph", "t1", "-f", "dot"],
    ["graph", HOSTILE, "-f", "mermaid"],
    ["status"],
    ["status", "--json"],
    ["inspect", "active", "--timeout", "0"],
    ["inspect", "active", "--timeout", "0", "--json"],
    ["inspect", "active", "-d", HOSTILE],
    ["inspect", "odd" + HOSTILE],
    ["control", "revoke", "id" + HOSTILE],
    ["control", "revoke", "id" + HOSTILE, "--json"],
    ["schedules", "list"],
    ["schedules", "list", "--json"],
    ["schedules", "next", "hourly"],
    ["schedules", "pause", "odd" + HOSTILE],
    ["call", "none" + HOSTILE],
    ["call", "none" + HOSTILE, HOSTILE, "--force", "--task-id", "new" + HOSTILE],
    ["call", "x", "--force", "--args", HOSTILE],
    ["call", "x", "--force", "--eta", HOSTILE],
    ["migrate", "sqlite:///shop.db", "sqlite:///new.db", "--dry-run"],
    ["sweep"],
    ["brokers"],
    ["doctor"],
    ["doctor", "--json"],
    ["doctor", "-Q", QUEUE],
    ["multi", "show", "w" + HOSTILE, "--opt=" + HOSTILE],
    ["multi", "systemd", "w" + HOSTILE, "--opt=" + HOSTILE],
    ["worker", "-Q", HOSTILE + ":0"],
    ["odd" + HOSTILE],
    ["call", "--odd" + HOSTILE],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: one_line(" ".join(words))[:60])
def test_no_command_passes_control_characters_or_forged_lines(
    words: list[str],
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(store)
    monkeypatch.setenv("CLOUDQ_APP", "shop:app")
    monkeypatch.syspath_prepend(store)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    cli.main(words)
    _judge(*capsys.readouterr())


def _judge(out: str, err: str) -> None:
    for text in (out, err):
        assert not UNSAFE.findall(text)
        assert not re.search("(?m)^12:00:00", text)
    assert out or err
    assert "hunter2" not in err
    assert "(unexpected;" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["-A", "--broker", "--backend"])
def test_no_option_is_quoted_raw(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CLOUDQ_APP", raising=False)
    given = "redis://u:hunter2@h/x" + HOSTILE
    assert cli.main(["tasks", "list", "--broker", "sqlite:///x.db", option, given]) == 2
    _judge(*capsys.readouterr())


def test_errors_in_tables_and_records_show_no_secret(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store)
    url = ["--broker", "sqlite:///shop.db"]
    for words in (
        ["dead", "list", "default"],
        ["dead", "list", "default", "--json"],
        ["tasks", "list", "--json"],
        ["tasks", "show", "t1"],
        ["result", "t1", "--traceback"],
        ["result", "t1", "--json"],
    ):
        cli.main([*words, *url])
        out = capsys.readouterr().out
        assert "***" in out
        assert "hunter2" not in out


def test_json_gives_hostile_text_back_as_it_was(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store)
    cli.main(["result", "t2", "--json", "--broker", "sqlite:///shop.db"])
    assert json.loads(capsys.readouterr().out)["value"] == {"x": HOSTILE}


def test_a_terminal_gets_only_the_styles_of_the_command(store: Path) -> None:
    words = ["dead", "list", "default", "--broker", "sqlite:///shop.db"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "200"}
        os.chdir(store)
        os.execv(sys.executable, [sys.executable, "-m", "cloudq", *words])
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
    except OSError:  # the terminal is closed
        pass
    assert os.waitpid(pid, 0)[1] == 0
    styles = r"\x1b\[[0-9;]*m|\r\n"
    assert not UNSAFE.search(re.sub(styles, "", written.decode()))
    assert "OWNED" in written.decode()


# ---- one place

# What writes to a terminal, and the files that may call it.
WRITES = re.compile(
    r"print|input|(typer|click)\.(echo|secho|confirm|prompt|style)|traceback\.print_\w+|.*\.print"
    r"|sys\.__?(stdout|stderr)(__)?\.(buffer\.)?write(lines)?|sys\.std(out|err)\.\w*write\w*"
    r"|(rich\.text\.)?Text(\.\w+)?|Console|logging\.(StreamHandler|basicConfig)|faulthandler\.\w+"
)
PLACES = {
    "adapters/cloudq_local/recover.py",  # paths and numbers: it needs neither an app nor the CLI
    "cloudq/cli/__init__.py",
    "cloudq/cli/output.py",
    "cloudq/driver/log.py",
    "cloudq/worker/logs.py",
}


def _writes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and WRITES.fullmatch(ast.unparse(node.func)):
            yield f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"


@pytest.mark.skipif(not (ROOT / "deploy").is_dir(), reason="an installed package")
def test_nothing_is_printed_but_at_the_one_place() -> None:
    from cloudq_deploy import command

    roots = [ROOT / "cloudq", ROOT / "adapters", Path(command.__file__).parent]
    files = [file for root in roots for file in root.rglob("*.py")]
    assert len(files) > 200
    assert [*_writes(ROOT / "cloudq/cli/output.py")]  # so that this test can fail
    found = [
        each
        for file in files
        if str(file.relative_to(ROOT)) not in PLACES
        for each in _writes(file)
    ]
    assert found == []
