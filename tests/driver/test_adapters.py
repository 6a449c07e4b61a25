"""An adapter of anyone brings a new cloud: the core learns all of it from its declaration."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

import cloudq
from cloudq import CloudQ
from cloudq.driver.adapters import Adapter, adapter, declared, default_backend
from cloudq.driver.loader import installed

METADATA = """\
Metadata-Version: 2.1
Name: cloudq-nimbus
Version: 1.0
Provides-Extra: sdk
Requires-Dist: cloudq
Requires-Dist: nimbus-sdk>=1; extra == "sdk"
"""
ENTRY_POINTS = """\
[cloudq.adapters]
nimbus = cloudq_nimbus.declaration:NIMBUS
cirrus = cloudq_nimbus.declaration:CIRRUS
[cloudq.brokers]
nimbus = cloudq_nimbus.drivers:open_broker
cirrus = cloudq_nimbus.drivers:open_broker
[cloudq.backends]
nimbus = cloudq_nimbus.drivers:open_backend
"""
DECLARATION = """\
from cloudq.driver import Adapter

NIMBUS = Adapter(
    extra="sdk",
    sample="nimbus:///{folder}/sample",
    environment={"NIMBUS_TOKEN": "nobody"},
    default_backend="{broker}",
    peek_cost="Nimbus hides a message that was looked at",
    no_scheduler="Nimbus has no scheduler: run a beat",
    loggers=("nimbus_sdk",),
)
CIRRUS = Adapter(extra="sdk", suggested_backend="nimbus:///results")
"""
DRIVERS = """\
import os
from dataclasses import replace

import nimbus_sdk

from cloudq.driver import Address
from cloudq_local import sqlite


def open_broker(address: Address):
    assert address.path or os.environ["NIMBUS_TOKEN"]
    return sqlite.open_broker(replace(address, scheme="sqlite"))


def open_backend(address: Address):
    return sqlite.open_backend(replace(address, scheme="sqlite"))
"""
APP = """\
from cloudq import CloudQ

app = CloudQ("weather", broker="nimbus:///weather.db")


@app.task(name="double")
def double(number: int) -> int:
    return 2 * number
"""


def distribution(folder: Path, name: str, metadata: str, entry_points: str = "") -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(entry_points)


class Cloud:
    """A folder with an adapter in it, as if it had been installed, and a project that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        distribution(folder, "cloudq_nimbus", METADATA, ENTRY_POINTS)
        package = folder / "cloudq_nimbus"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "declaration.py").write_text(DECLARATION)
        (package / "drivers.py").write_text(DRIVERS)
        (folder / "weather.py").write_text(APP)

    def install_sdk(self) -> None:
        metadata = "Metadata-Version: 2.1\nName: nimbus-sdk\nVersion: 1.0\n"
        distribution(self.folder, "nimbus_sdk", metadata)
        (self.folder / "nimbus_sdk.py").touch()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "COLUMNS": "200"}
        environment.pop("CLOUDQ_BROKER", None)
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def cloudq(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "cloudq", *arguments)


@pytest.fixture
def bare(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def cloud(bare: Cloud) -> Cloud:
    bare.install_sdk()
    return bare


def test_its_limits_are_listed(cloud: Cloud) -> None:
    listed = orjson.loads(cloud.cloudq("brokers", "--json").stdout)
    for kind in ("brokers", "backends"):
        [found] = [each for each in listed[kind] if each["scheme"] == "nimbus"]
        assert found["provided_by"].startswith("cloudq_nimbus.drivers:")
        assert found["problem"] is None
        assert found["limits"]


def test_its_missing_sdk_is_installed_by_its_own_extra(bare: Cloud) -> None:
    needs = 'needs the package nimbus_sdk: pip install "cloudq-nimbus[sdk]"'
    stats = bare.cloudq("queues", "stats", "-A", "weather", "default")
    assert (stats.returncode, needs in stats.stderr) == (2, True)
    assert needs in bare.cloudq("brokers").stderr
    doctor = bare.cloudq("doctor", "-A", "weather").stdout
    assert 'not installed: pip install "cloudq-nimbus[sdk]"' in doctor


def test_doctor_sees_its_packages_and_results(cloud: Cloud) -> None:
    doctor = cloud.cloudq("doctor", "-A", "weather").stdout
    assert "nimbus-sdk 1.0" in doctor
    assert "stored with the broker, in nimbus:///weather.db" in doctor
    other = cloud.cloudq("doctor", "-b", "cirrus:///weather.db").stdout
    assert "for example nimbus:///results" in other


def test_a_look_at_its_queues_says_what_it_costs(cloud: Cloud) -> None:
    assert cloud.cloudq("call", "-A", "weather", "double", "4").returncode == 0
    peeked = cloud.cloudq("queues", "peek", "-A", "weather", "default")
    assert "double" in peeked.stdout
    assert "Nimbus hides a message" in peeked.stderr


def test_a_cloud_without_a_scheduler_says_what_to_do(cloud: Cloud) -> None:
    planned = cloud.cloudq("schedules", "plan", "-A", "weather")
    assert (planned.returncode, "run a beat" in planned.stderr) == (2, True)


def test_a_task_runs_and_its_result_is_there(cloud: Cloud) -> None:
    ran = cloud.run(
        "-c",
        "import logging, weather\n"
        "from cloudq.testing import drain\n"
        "from cloudq.worker.logs import configure\n"
        "configure('info', 'text')\n"
        "result = weather.double.delay(21)\n"
        "drain(weather.app)\n"
        "print(result.get(timeout=60), logging.getLogger('nimbus_sdk').level)",
    )
    assert ran.stdout.split() == ["42", "30"], ran.stderr


# ---- what is declared is read without an SDK


def test_declarations_load_no_sdk_and_no_driver() -> None:
    code = (
        "import sys\n"
        "from cloudq.driver.adapters import declared\n"
        "assert len(list(declared())) >= 10\n"
        # A namespace that a package's .pth file makes is no import of anybody's.
        "real = [n for n, module in sys.modules.items() if getattr(module, '__file__', 0)]\n"
        "print([n for n in real if n.startswith(('boto', 'google.', 'azure.'))"
        " or n.startswith('cloudq_') and '.' in n and not n.endswith('.declaration')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_scheme_that_can_be_opened_is_declared() -> None:
    names = {entry.name for entry, _ in declared()}
    for kind in ("broker", "backend", "scheduler", "blob"):
        assert {entry.name for entry in installed(kind)} <= names


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("memory://x", "memory://x"),
        ("SQLITE:///a.db", "SQLITE:///a.db"),
        ("sqs://eu-west-1", None),
        ("nowhere://", None),
        ("", None),
    ],
)
def test_a_broker_brings_its_result_store_along(url: str, backend: str | None) -> None:
    assert default_backend(url) == backend
    assert CloudQ(broker=url).conf.backend_url == backend


def test_nothing_is_known_of_what_nobody_declares() -> None:
    assert adapter("nowhere://x") == Adapter()


# ---- the core names no cloud

CLOUDS = re.compile(
    r"sqs|pubsub|servicebus|dynamodb|firestore|aztables|eventbridge|boto", re.IGNORECASE
)
ALLOWED = {
    # Celery's own settings and transports have these names.
    "contrib/celery/": "translation tables",
    # The core writes its crontabs in the schedulers' languages; a driver names the one it takes.
    "schedules/cloud_cron.py": "dialects of crontabs",
    "schedules/cloud_sync.py": "dialects of crontabs",
    "testing/contracts/schedule.py": "dialects of crontabs",
}


def words(tree: ast.AST) -> Iterator[str]:
    """The names and texts of a module; docstrings and comments left out."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in texts:
                yield node.value
        else:
            for field in ("id", "name", "attr", "arg", "module", "asname"):
                value = getattr(node, field, None)
                if isinstance(value, str):
                    yield value


def test_the_core_knows_no_cloud_by_name() -> None:
    core = Path(cloudq.__file__).parent
    found: dict[str, list[str]] = {}
    for file in sorted(core.rglob("*.py")):
        name = file.relative_to(core).as_posix()
        named = [word for word in words(ast.parse(file.read_text())) if CLOUDS.search(word)]
        if named and not name.startswith(tuple(ALLOWED)):
            found[name] = named
    assert found == {}
