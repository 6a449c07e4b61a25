"""`cloudq demo` on a few files, with its real worker."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloudq.testing.waiting import PATIENCE
from tests.servers import unique


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text("call(me)\nmaybe call(you)\n")
    (folder / "picture").write_bytes(b"\0\1\2")
    return folder


@pytest.fixture
def demo(project, monkeypatch):
    """The arguments of a small worker; its folder is the project's."""
    return ["demo", "files", "--processes", "1", "--keep", "kept"]


def test_it_indexes_retries_sums_and_says_what_to_type_next(command, files, demo, project):
    ran = command(*demo)
    assert (ran.code, ran.err) == (0, "")
    assert "files: 5 of 5" in ran.out
    for line in (
        "files         5",
        "lines         10",
        "words         15",
        "a retry       failed 2 times",
        "a chord       100 squares, and then their sum: 328,350",
        "a kill        a process was killed amid 16 tasks: none was lost",
    ):
        assert line in ran.out
    assert "called most   call 10" in ran.out
    assert (project / "kept" / "demo.db").is_file()
    commands = re.findall(r"(?:cloudq|-m cloudq) ((?:result|queues) .*)", ran.out)
    answers = [command(*shlex.split(line)) for line in commands]
    assert [answer.code for answer in answers] == [0, 0, 0]
    assert "up at try 3" in answers[0].out
    assert '"files":5' in answers[1].out.replace(" ", "")


def test_without_options_only_its_own_file_is_touched(command, files, demo):
    away = {"CLOUDQ_BROKER": "sqs://us-east-1", "CLOUDQ_BACKEND": "dynamodb://cloudq"}
    ran = command(*demo, env=away)
    assert (ran.code, "files         5" in ran.out, "dynamodb" in ran.out) == (0, True, False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_leaves_no_process_behind(project, number, code):
    args = [sys.executable, "-m", "cloudq", "demo", "--processes", "1", "--keep", "kept"]
    process = subprocess.Popen(args, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = project / "kept" / "worker.log"
    _until(lambda: log.is_file() and "slots" in log.read_text())
    worker = _children(process.pid)
    assert worker
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (code, b"")
    assert not any(map(_alive, worker))


def test_a_worker_that_dies_is_told_with_its_last_lines(project):
    args = [sys.executable, "-m", "cloudq", "demo", "--processes", "1", "--keep", "kept"]
    process = subprocess.Popen(args, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = project / "kept" / "worker.log"
    _until(lambda: log.is_file() and "slots" in log.read_text())
    [worker] = _children(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"the worker stopped by itself with exit code -9" in err
    assert b"worker: " in err


def test_it_runs_on_sqs_and_dynamodb(command, files, demo, aws):
    where = ["-b", f"sqs://?endpoint_url={aws.url}&prefix={unique()}-"]
    where += ["--backend", f"dynamodb://{unique()}?endpoint_url={aws.url}"]
    missing = command(*demo, *where)
    assert missing.code == 2
    assert "cloudq queues create demo --store" in missing.err
    assert command("queues", "create", "demo", "--store", *where).code == 0
    ran = command(*demo, *where)
    assert (ran.code, "files         5" in ran.out) == (0, True)


def _until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
