"""The local AWS endpoint starts, seeds, explains itself, and leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cloudq import plugins
from cloudq.driver import QueueAdmin, StoreAdmin
from cloudq.testing import eventually
from localstack.up import Endpoint

UP = Path(__file__).parents[1] / "localstack" / "up.py"


@pytest.fixture
def running(aws: Endpoint) -> Iterator[subprocess.Popen[str]]:
    """`python localstack/up.py --port 0`, as a user runs it."""
    # `aws` comes first: it skips this test where the server cannot be installed.
    assert aws.pid
    process = subprocess.Popen(
        [sys.executable, str(UP), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def read(process: subprocess.Popen[str]) -> str:
    """What it prints until it is ready."""
    lines: list[str] = []
    assert process.stdout
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            return "".join(lines)
    raise AssertionError(f"ended: {lines}")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_whoever_started_it(
    running: subprocess.Popen[str], end: signal.Signals
) -> None:
    found = re.search(r"pid (\d+)", read(running))
    assert found
    server = psutil.Process(int(found[1]))
    running.send_signal(end)
    running.wait(20)
    eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_the_printed_environment_works(
    running: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = dict(re.findall(r"^export (\w+)=(\S+)$", read(running), re.MULTILINE))
    for name, value in exports.items():
        monkeypatch.setenv(name, value)
    broker = plugins.open_broker(os.environ["CLOUDQ_BROKER"])
    assert isinstance(broker, QueueAdmin)
    assert broker.list() == ["default", "high", "orders.fifo"]
    assert broker.stats("orders.fifo").dead_queue == "orders-dead.fifo"
    store = plugins.open_backend(os.environ["CLOUDQ_BACKEND"])
    assert isinstance(store, StoreAdmin)
    store.check_store()
    broker.close()
    store.close()


def test_a_taken_port_is_explained(aws: Endpoint) -> None:
    command = [sys.executable, str(UP), "--port", str(aws.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"port {aws.port} is taken" in done.stderr


def test_without_packages_pip_says_why(aws: Endpoint, tmp_path: Path) -> None:
    assert aws.pid
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, str(UP), "--port", "0"],
        env={**os.environ, **offline, "CLOUDQ_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install failed. It needs a network" in done.stderr
