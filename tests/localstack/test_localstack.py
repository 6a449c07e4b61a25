"""The local clouds start, seed, explain themselves, and leave no process behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import yaml

from cloudq.driver import QueueAdmin, StoreAdmin
from cloudq.driver import loader as plugins
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from localstack.aws import MINISTACK
from localstack.azure import AZURITE, BLOBS, SERVICEBUS, TABLES
from localstack.google import FIRESTORE, PUBSUB, STORAGE
from localstack.servers import Endpoint, Spec, UpError, spawn, start
from tests.servers import lacking

UP = Path(__file__).parents[2] / "localstack" / "up.py"
SPECS = (MINISTACK, PUBSUB, FIRESTORE, STORAGE, TABLES, BLOBS, SERVICEBUS)
COMPOSE = UP.with_name("docker-compose.yml")
NOWHERE = "http://127.0.0.1:9/"


class Up:
    """`python localstack/up.py` on free ports, as a user runs it, read until it is ready."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, str(UP), "--port", "0", *arguments]
        self._errors = folder / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout
        self.printed = ""
        for line in self.process.stdout:
            self.printed += line
            if "Ctrl-C" in line:
                return
        self.close()
        lacking(self.errors)

    @property
    def errors(self) -> str:
        """Its standard error so far."""
        return self._errors.read_text()

    @property
    def servers(self) -> dict[str, int]:
        """The process ids, by server."""
        found = re.findall(r"^(\w+) +\S+ +pid (\d+) ", self.printed, re.MULTILINE)
        return {name: int(pid) for name, pid in found}

    def exports(self, cloud: str) -> dict[str, str]:
        """The variables that it wants exported for a cloud, as a shell reads them."""
        _, found, rest = self.printed.partition(f"\n# {cloud}\n")
        assert found, self.printed
        words = shlex.split(rest.partition("\n\n")[0])
        return dict(word.split("=", 1) for word in words if word != "export")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def members(group: int) -> list[psutil.Process]:
    """The processes of a server that still run: itself, its watch, and those it started."""

    def runs(process: psutil.Process) -> bool:
        try:
            return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    return [process for process in psutil.process_iter() if runs(process)]


@pytest.fixture
def run_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def run(*arguments: str) -> Up:
        made.append(Up(tmp_path, *arguments))
        return made[-1]

    yield run
    for up in made:
        up.close()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """All servers, with queues and stores."""
    up = Up(tmp_path_factory.mktemp("up"))
    yield up
    up.close()


@pytest.mark.parametrize(
    ("end", "names"),
    [(signal.SIGINT, ()), (signal.SIGKILL, ()), (signal.SIGTERM, ("aws",))],
    ids=["interrupt", "kill", "terminate"],
)
def test_servers_end_with_whoever_started_them(
    run_up: Callable[..., Up], end: signal.Signals, names: Sequence[str]
) -> None:
    up = run_up("--no-seed", *names)
    groups = up.servers.values()
    assert all(len(members(group)) >= 2 for group in groups)  # the server, and its watch
    up.process.send_signal(end)
    assert up.process.wait(PATIENCE) == (-end if end == signal.SIGKILL else 0)
    eventually(lambda: not any(members(group) for group in groups))


def test_nothing_that_a_server_started_is_left() -> None:
    script = (
        "import socket, subprocess, sys, time;"
        "subprocess.Popen(['sleep', '600']);"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
        "time.sleep(600)"
    )
    spec = Spec(
        name="parent",
        cloud="none",
        services="none",
        lacks="everything",
        ports=(1,),
        command=lambda ports: [sys.executable, "-c", script, str(ports[0])],
        exports=lambda _: {},
    )
    with start(spec) as endpoint:
        assert len(members(endpoint.pid)) == 3  # itself, its watch, and its child
    eventually(lambda: not members(endpoint.pid))
    assert not endpoint.log.exists()


def test_a_server_that_ends_is_told(run_up: Callable[..., Up]) -> None:
    up = run_up("aws", "--no-seed")
    os.kill(up.servers["ministack"], signal.SIGKILL)
    assert up.process.wait(PATIENCE) == 1
    assert "ministack ended by itself; see " in up.errors


def test_every_server_comes_up(everything: Up) -> None:
    if "is left out" in everything.errors:
        lacking(everything.errors)
    assert list(everything.servers) == [spec.name for spec in SPECS]
    assert not everything.errors


@pytest.mark.parametrize("cloud", ["AWS", "Google Cloud", "Azure"])
def test_the_printed_environment_works(
    everything: Up, cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = everything.exports(cloud)
    if not {"CLOUDQ_BROKER", "CLOUDQ_BACKEND"} <= exports.keys():
        lacking(everything.errors)
    for name, value in exports.items():
        monkeypatch.setenv(name, value)
    broker = plugins.open_broker(os.environ["CLOUDQ_BROKER"])
    assert isinstance(broker, QueueAdmin)
    assert broker.list() == ["default", "high", "orders.fifo"]
    assert broker.stats("orders.fifo").dead_queue
    store = plugins.open_backend(os.environ["CLOUDQ_BACKEND"])
    assert isinstance(store, StoreAdmin)
    store.check_store()
    broker.close()
    store.close()


def test_a_detached_server_stays_until_it_is_stopped() -> None:
    def up(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(UP), "aws", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    done = up("--detach", "--no-seed", "--port", "0")
    if done.returncode:
        lacking(done.stderr)
    found = re.search(r"http://127.0.0.1:(\d+) +pid (\d+)", done.stdout)
    assert found
    port, pid = found.groups()
    assert members(int(pid))
    assert up("--stop", "--port", port).stdout == f"stopped ministack (pid {pid}) on port {port}\n"
    eventually(lambda: not members(int(pid)))
    again = up("--stop", "--port", port)
    assert again.returncode == 1
    assert "nothing like that was left running" in again.stderr


def test_a_taken_port_is_explained(aws: Endpoint) -> None:
    command = [sys.executable, str(UP), "aws", "--port", str(aws.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert f"port {aws.port} is taken" in done.stderr
    assert 'make localstack ARGS="aws --port 0"' in done.stderr


def test_a_port_for_many_servers_is_refused() -> None:
    command = [sys.executable, str(UP), "google", "--port", "8085"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "--port 8085 is for one server: name it, e.g. pubsub" in done.stderr


def test_what_cannot_run_here_is_told_in_a_line_each(tmp_path: Path) -> None:
    command = [sys.executable, str(UP), "pubsub", "firestore", "azurite", "--port", "0"]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    told = done.stderr.splitlines()
    assert [line.partition(":")[2].split(":")[0] for line in told] == [
        " pubsub is left out",
        " firestore is left out",
        " azurite is left out",
    ]
    assert "no Java" in told[0]
    assert "no Java" in told[1]
    assert "no Node.js" in told[2]


@pytest.mark.parametrize("spec", [PUBSUB, FIRESTORE], ids=lambda spec: spec.name)
def test_a_missing_cloud_sdk_says_what_to_install(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = shutil.which("java") or sys.executable  # it is looked for, and never run
    (tmp_path / "java").symlink_to(java)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UpError, match="no Google Cloud SDK: gcloud is not on the PATH"):
        spawn(spec, 0)
    monkeypatch.setenv("CLOUDSDK_ROOT", str(tmp_path))
    with pytest.raises(UpError, match=rf"apt install google-cloud-cli-{spec.name}-emulator"):
        spawn(spec, 0)


@pytest.mark.parametrize(
    ("name", "installer", "settings"),
    [
        ("ministack", "pip", {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}),
        ("azurite", "npm", {"npm_config_registry": NOWHERE, "npm_config_fetch_retries": "0"}),
    ],
)
def test_without_packages_the_installer_says_why(
    name: str, installer: str, settings: dict[str, str], tmp_path: Path
) -> None:
    if not shutil.which(installer):
        lacking(f"no {installer}")
    offline = {
        **os.environ,
        **settings,
        "PIP_CONFIG_FILE": os.devnull,
        "npm_config_cache": str(tmp_path / "npm"),
        "CLOUDQ_STATE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, str(UP), name, "--port", "0"],
        env=offline,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert f"{installer} install failed. It needs a network" in done.stderr


def test_containers_are_where_the_servers_are() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    in_docker = [spec for spec in SPECS if spec is not STORAGE]
    expected = [f"127.0.0.1:{port}:{port}" for spec in in_docker for port in spec.ports]
    assert sorted(published) == sorted(expected)
    # It has no shell to ask with; servicebus-ready asks instead.
    assert [name for name, service in services.items() if "healthcheck" not in service] == [
        "servicebus"
    ]
    for name in ("tables", "blobs"):
        assert services[name]["image"].endswith(AZURITE.replace("@", ":"))
