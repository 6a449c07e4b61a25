"""examples/celery_weather, a program of Celery's, moved by the commands of the page alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "examples" / "celery_weather"
PAGE = ROOT / "docs" / "how-to" / "move-from-celery.md"
RECORDING = Path(__file__).parent / "celery_weather.json"
PYTHON = os.environ.get("CELERY_PYTHON") or (sys.executable if find_spec("celery") else None)

# A task that sets FAILURE itself fails with it here; Celery tells no signal of it.
MORE = {"written: failures": ["weather.stations.tasks.give_up ValueError False False"]}


def commands() -> list[str]:
    """The shell commands of the page, as they stand there."""
    return [
        dedent(block)
        for block in re.findall(r"^ *```sh\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    ]


def copied(folder: Path) -> Path:
    shutil.copytree(PROGRAM, folder, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    return folder


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program, after the commands of the page."""
    folder = copied(tmp_path_factory.mktemp("moved") / "weather")
    for command in commands():
        subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def running(moved: Path) -> Iterator[Path]:
    """The moved program with the worker of its Procfile."""
    with worker(moved, _environment(moved)):
        yield moved


def test_imports_and_command_lines_are_all_that_changes(moved: Path) -> None:
    changed: list[str] = []
    for path in (each for each in PROGRAM.rglob("*") if each.suffix in (".py", ".sh", ".ini", "")):
        if path.is_dir():
            continue
        before = path.read_text().splitlines()
        after = (moved / path.relative_to(PROGRAM)).read_text().splitlines()
        assert len(before) == len(after)
        changed += [line for line, was in zip(after, before, strict=True) if line != was]
    assert len(changed) > 15
    expected = (
        r"(from cloudq\.contrib\.celery\b.* import .*|(worker: )?cloudq celery .*|pytest_plug.*)"
    )
    assert [line for line in changed if not re.fullmatch(expected, line)] == []


def test_its_own_tests_pass(moved: Path) -> None:
    assert " passed" in _run([sys.executable, "-m", "pytest", "-q"], moved, _environment(moved))


def test_a_day_on_cloudq_is_a_day_on_celery(running: Path) -> None:
    came = flat(json.loads(_run([sys.executable, "day.py"], running, _environment(running))))
    recorded = flat(json.loads(RECORDING.read_text())["day"])
    assert came.keys() == recorded.keys()
    for name, value in recorded.items():
        expected = sorted([*value, *MORE[name]]) if name in MORE else value
        assert came[name] == expected, name


@pytest.mark.parametrize("command", ["status", "steer"])
def test_those_who_run_it_see_and_steer_it(running: Path, command: str) -> None:
    line = [sys.executable, "-m", "weather.operations", command]
    came = json.loads(_run(line, running, _environment(running)))
    came.pop("active", None)  # the beat's calls come and go
    assert came == json.loads(RECORDING.read_text())[command]


def test_command_lines_do_what_they_did(running: Path) -> None:
    said = _run(["sh", "bin/look.sh"], running, _environment(running))
    assert "pong" in said
    assert "weather.almanac" in said


def flat(day: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{part}: {name}": value for part in day for name, value in day[part].items()}


@contextmanager
def worker(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The worker of the Procfile, until the block ends."""
    line = (folder / "Procfile").read_text().partition(": ")[2].split()
    log = folder / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        eventually(lambda: " ready" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _environment(folder: Path, python: str = sys.executable, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTHONWARNINGS": "ignore",
        "WEATHER_BROKER": "sqlite:///weather.db",
        "WEATHER_RESULTS": "sqlite:///weather.db",
        "CLOUDQ_WORKER_HEARTBEAT": "0.5",
        "CLOUDQ_WORKER_POLL_WAIT": "1",
        **more,
    }


def _run(line: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE * 2
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- what Celery does


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def on_celery(folder: Path) -> dict[str, Any]:
    """Run its tests, its day and its script on the real Celery, over Redis."""
    program, python = copied(folder / "weather"), str(PYTHON)
    with redis(folder) as url:
        places = {"WEATHER_BROKER": f"{url}/0", "WEATHER_RESULTS": f"{url}/1"}
        environment = _environment(program, python, **places)
        _run([python, "-m", "pytest", "-q"], program, environment)
        with worker(program, environment):
            script = [python, "-m", "weather.operations"]
            came = {
                "day": json.loads(_run([python, "day.py"], program, environment)),
                "status": json.loads(_run([*script, "status"], program, environment)),
                "steer": json.loads(_run([*script, "steer"], program, environment)),
            }
            _run(["sh", "bin/look.sh"], program, environment)
    came["status"].pop("active")
    return came


@pytest.mark.drill
@pytest.mark.skipif(
    PYTHON is None
    or shutil.which("redis-server") is None
    or os.environ.get("CLOUDQ_DRILL") != "full",
    reason="needs redis-server, Celery with redis and pytest, and CLOUDQ_DRILL=full (3 minutes)",
)
def test_what_was_recorded_is_what_celery_does(tmp_path: Path) -> None:
    assert on_celery(tmp_path) == json.loads(RECORDING.read_text())


if __name__ == "__main__":  # writes the recording, into an empty folder's name that is given
    RECORDING.write_text(json.dumps(on_celery(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n")
