"""`cloudq dashboard`: one command that serves, and one line for whatever is wrong."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cloudq.cli import main
from cloudq.dashboard.access import access
from tests.dashboard.shop import shop

HERE = Path(__file__).parent


def _run(*words: str) -> int:
    return main(["dashboard", *words])


def test_it_refuses_to_start_for_everybody(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _run("-b", f"sqlite:///{tmp_path}/q.db", "--host", "0.0.0.0") == 2
    error = capsys.readouterr().err
    assert "has no user" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--token", "short"], "16 at least"),
        (["--role", "root"], "no role"),
        (["--proxy-user-header", "X-User"], "named proxy"),
        (["--root-path", "/a b"], "--root-path"),
        (["--refresh", "0.01"], "refresh is 0.01"),
        (["-b", "memory://"], "only within one process"),
    ],
)
def test_one_line_says_what_is_wrong(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = words if "-b" in words else ["-b", f"sqlite:///{tmp_path}/q.db", *words]
    assert _run(*given, "--port", "0") == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert _run("-b", f"sqlite:///{tmp_path}/q.db", "--port", port) == 2
    assert "cannot listen on" in capsys.readouterr().err


def test_a_line_for_the_file_of_passwords_is_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, write = os.pipe()
    os.write(write, b"correct horse\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert _run("--add-user", "olga", "--role", "operate") == 0
    line = capsys.readouterr().out
    assert line.startswith("olga:operate:scrypt$")
    assert "correct horse" not in line
    file = tmp_path / "users"
    file.write_text(line)
    user = access(passwords=file).by_password("olga", "correct horse")
    assert user is not None
    assert user.may_operate


def test_it_serves_until_it_is_stopped(tmp_path: Path) -> None:
    broker = f"sqlite:///{tmp_path}/shop.db"
    with shop(broker) as app:
        app.send_task("shop.mail", ["x"])
    command = [sys.executable, "-m", "cloudq", "dashboard", "-A", "shop_app:app", "-b", broker]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--backend", broker, "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert url.startswith("http://127.0.0.1:")
            connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
            connection.request("GET", "/queues")
            text = connection.getresponse().read().decode()
            assert ">mail</a>" in text
            # An open page holds nothing up.
            connection.request("GET", "/live?view=/")
            connection.getresponse()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            connection.close()
        assert process.returncode in (0, -signal.SIGTERM)
