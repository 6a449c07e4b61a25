"""`cloudq multi`, pidfiles and --autoreload, with real workers on SQLite."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cloudq import CloudQ, ConfigurationError
from cloudq.cli import reload
from cloudq.cli.commands.multi import parsed, unit
from cloudq.cli.pidfile import held, holder
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE

TASKS = """
from cloudq import CloudQ
app = CloudQ("multi")

@app.task(name="version")
def version():
    return 1
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDQ_BROKER", f"sqlite:///{tmp_path}/q.db")
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "1")
    (tmp_path / "project.py").write_text(TASKS)
    yield tmp_path
    for file in tmp_path.rglob("*.pid"):
        pid = holder(file)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def cloudq(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloudq", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def runs(pid: int) -> bool:
    """Tell whether a process exists and is no zombie; reaping orphans may take a while."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SMALL = ("-A", "project:app", "--processes", "1", "--threads", "1")
FILES = ("--pidfile", "run/%n.pid", "--logfile", "log/%n.log")


def test_workers_are_started_shown_restarted_and_stopped(project: Path) -> None:
    started = cloudq("multi", "start", "2", *SMALL, *FILES, "-t:2", "3")
    assert started.returncode == 0, started.stderr
    first, second = holder(project / "run/worker1.pid"), holder(project / "run/worker2.pid")
    assert first is not None
    assert second is not None
    assert started.stdout.splitlines() == [
        f"worker1: started, pid {first}",
        f"worker2: started, pid {second}",
    ]
    eventually(lambda: "3 threads" in (project / "log/worker2.log").read_text())
    with CloudQ("caller") as app:
        assert app.send_task("version").get(timeout=PATIENCE) == 1

    again = cloudq("multi", "start", "worker1", *SMALL, *FILES)
    assert (again.returncode, f"is already running, with pid {first}" in again.stderr) == (1, True)
    shown = cloudq("multi", "show", "2", *SMALL, *FILES).stdout
    assert f"worker1 (pid {first})" in shown
    assert "-n worker2@" in shown

    restarted = cloudq("multi", "restart", "worker1", *SMALL, *FILES)
    assert restarted.returncode == 0, restarted.stderr
    assert holder(project / "run/worker1.pid") not in (None, first)

    stopped = cloudq("multi", "stop", "2", *FILES)
    assert stopped.stdout.splitlines() == ["worker1: stopped", "worker2: stopped"]
    assert not list((project / "run").iterdir())
    eventually(lambda: not runs(second))
    assert "worker1: not running" in cloudq("multi", "stop", "1", *FILES).stdout


def test_a_worker_that_ends_at_once_is_a_failure_with_its_last_word(project: Path) -> None:
    ended = cloudq("multi", "start", "w", "-A", "nowhere:app", *FILES)
    assert ended.returncode == 1
    assert "w ended while starting" in ended.stderr
    assert "nowhere" in ended.stderr


def test_a_killed_worker_leaves_a_stale_pidfile_that_the_next_takes_over(project: Path) -> None:
    cloudq("multi", "start", "w", *SMALL, *FILES)
    file = project / "run/w.pid"
    assert cloudq("multi", "kill", "w", *FILES).returncode == 0
    assert file.exists()
    assert holder(file) is None
    assert cloudq("multi", "start", "w", *SMALL, *FILES).returncode == 0
    assert "taking over stale pidfile" in (project / "log/w.log").read_text()
    assert cloudq("multi", "stop", "w", *FILES).returncode == 0


def test_the_words_of_multi() -> None:
    order = parsed(
        ["a", "b", "c", "-Q", "x", "-c:b", "4", "-t:1-2,c=9", "--timeout=5", "--pidfile", "/r/%n"]
    )
    nodes = order.nodes()
    assert [node.name for node in nodes] == ["a", "b", "c"]
    assert [list(node.options) for node in nodes] == [
        ["-Q", "x", "-t", "9"],
        ["-Q", "x", "-c", "4", "-t", "9"],
        ["-Q", "x", "-t", "9"],
    ]
    assert (order.timeout, str(nodes[1].pidfile)) == (5.0, "/r/b")
    assert nodes[1].command[-4].startswith("b@") or nodes[1].command[-3].startswith("b@")
    assert [node.name for node in parsed(["3"]).nodes()] == ["worker1", "worker2", "worker3"]
    with pytest.raises(ConfigurationError, match="given twice"):
        parsed(["a", "a"])
    with pytest.raises(ConfigurationError, match="--pidfile needs a value"):
        parsed(["a", "--pidfile"])
    with pytest.raises(ConfigurationError, match="no is not a number"):
        parsed(["a", "--timeout", "no"])


def test_the_systemd_unit_is_one(project: Path) -> None:
    printed = cloudq("-A", "project:app", "multi", "systemd", "mail", "-Q", "a b", "--timeout=9")
    assert printed.stdout.rstrip("\n") == unit(
        parsed(["mail", "-A", "project:app", "-Q", "a b", "--timeout=9"])
    )
    assert "ExecStart=" in printed.stdout
    assert "-A project:app -Q 'a b' -n %i@%H" in printed.stdout.replace("'%i@%H'", "%i@%H")
    assert "TimeoutStopSec=9" in printed.stdout
    if shutil.which("systemd-analyze"):
        file = project / "cloudq@.service"
        file.write_text(printed.stdout)
        checked = subprocess.run(
            ["systemd-analyze", "verify", str(file)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "cloudq@.service:" not in checked.stderr


# ---- pidfiles


def test_a_pidfile_is_held_by_one_and_removed_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "w.pid"
    with held(file):
        assert file.read_text() == f"{os.getpid()}\n"
        assert holder(file) == os.getpid()
        again = held(file)
        with pytest.raises(ConfigurationError, match=f"pid {os.getpid()} is already running"):
            again.__enter__()
    assert not file.exists()
    assert holder(file) is None


def test_a_stale_pidfile_is_taken_over_though_its_id_belongs_to_another_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "w.pid"
    file.write_text(f"{os.getppid()}\n")
    assert holder(file) is None
    with held(file):
        assert holder(file) == os.getpid()
    assert f"of pid {os.getppid()}, which has ended" in caplog.text


def test_a_pidfile_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    nowhere = held(tmp_path / "nowhere" / "w.pid")
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        nowhere.__enter__()


# ---- reload


@pytest.mark.skipif(
    importlib.util.find_spec("watchfiles") is None, reason="watchfiles is not installed"
)
def test_a_changed_file_starts_the_worker_anew_also_after_an_error(project: Path) -> None:
    log = project / "worker.log"
    command = [sys.executable, "-m", "cloudq", "worker", *SMALL, "--autoreload"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with CloudQ("caller") as app:
            assert app.send_task("version").get(timeout=PATIENCE) == 1
            (project / "project.py").write_text("this is no python")
            eventually(lambda: "SyntaxError" in log.read_text())
            (project / "project.py").write_text(TASKS.replace("return 1", "return 2"))
            result = app.send_task("version")
            assert result.get(timeout=PATIENCE) == 2
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert not alive
    finally:
        for child in (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        ):
            child.kill()
        process.kill()
        process.wait()


def test_reloading_without_its_library_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(reload, "import_module", missing)
    with pytest.raises(ConfigurationError, match=r'pip install "cloudq-tasks\[reload\]"'):
        reload.run_reloading([], project)
