"""A function under functions-framework, fed by a push subscription of Google's emulator.

Real: the framework with its web server, in a process of its own; Pub/Sub and its pushes, as far
as the emulator has them (it signs no token, and counts no delivery attempts).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient

from cloudq import CloudQ
from cloudq.results.record import Record, State
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from localstack.google import PROJECT
from localstack.servers import Endpoint
from tests.servers import unique

pytestmark = pytest.mark.drill

MESSAGES = 500 if os.environ.get("CLOUDQ_DRILL") == "full" else 60
HERE = Path(__file__).parent


class Deployed:
    """The drill's functions in a process, and the queue whose messages are pushed to one."""

    def __init__(self, pubsub: Endpoint, folder: Path, target: str) -> None:
        self.queue = unique("orders")
        self.folder = folder
        self.ledger = folder / "ledger"
        settings = {
            "broker": f"pubsub://{PROJECT}",
            "backend": f"sqlite:///{folder}/results.db",
            "task_default_queue": self.queue,
        }
        self.app = CloudQ("drill", **settings)  # type: ignore[arg-type]
        self.app.broker.admin.create(self.queue, lease=60, max_deliveries=20)
        environment = {f"CLOUDQ_{name.upper()}": value for name, value in settings.items()}
        environment |= dict(pubsub.environment) | settings_of_the_function(self.ledger)
        self.port = free_port()
        command = [sys.executable, "-m", "functions_framework", "--target", target]
        command += ["--source", str(HERE / "drill_function.py")]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (folder / "function.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log
            )
        eventually(self.is_up)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def subscribe(self, path: str, **push: Any) -> None:
        """Make the queue's own subscription push to the function."""
        with SubscriberClient() as client:
            config = {"push_endpoint": f"http://127.0.0.1:{self.port}{path}", **push}
            name = client.subscription_path(PROJECT, self.queue)
            client.modify_push_config(request={"subscription": name, "push_config": config})

    def send_raw(self, body: bytes) -> None:
        """Publish what no producer of ours would."""
        client = PublisherClient()
        client.publish(client.topic_path(PROJECT, self.queue), body).result(PATIENCE)
        client.stop()

    def records(self, ids: list[str], *, within: float = PATIENCE) -> dict[str, Record]:
        """The ended records of these tasks; all of them, unless time runs out."""
        assert self.app.backend is not None
        until = time.monotonic() + within
        ended: dict[str, Record] = {}
        while len(ended) < len(ids) and time.monotonic() < until:
            found = self.app.backend.records([id for id in ids if id not in ended])
            ended |= {id: record for id, record in found.items() if record.terminal}
            time.sleep(0.05)
        return ended

    def executions(self) -> Counter[str]:
        return Counter(self.ledger.read_text().split())

    def dead(self, count: int) -> dict[str, str]:
        """The dead letters: body and reason."""

        def look() -> dict[str, str]:
            found = self.app.broker.admin.peek_dead(self.queue, count=count + 5)
            seen.update({letter.body.decode(): letter.reason or "" for letter in found})
            return seen if len(seen) >= count else {}

        seen: dict[str, str] = {}
        return eventually(look)

    def log(self) -> str:
        return (self.folder / "function.log").read_text(errors="replace")

    def stop(self) -> None:
        with suppress(Exception):
            self.app.broker.admin.delete(self.queue)
        self.app.close()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def settings_of_the_function(ledger: Path) -> dict[str, str]:
    return {
        "DRILL_LEDGER": str(ledger),
        "PYTHONUNBUFFERED": "1",
        "CLOUD_RUN_TIMEOUT_SECONDS": "60",
        "THREADS": "8",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def deploy(
    pubsub: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Deployed]]:
    made: list[Deployed] = []
    for name, value in pubsub.environment.items():
        if not name.startswith("CLOUDQ_"):
            monkeypatch.setenv(name, value)

    def make(target: str) -> Deployed:
        made.append(Deployed(pubsub, tmp_path, target))
        return made[-1]

    yield make
    for deployed in made:
        deployed.stop()


def path_of(deployed: Deployed, way: str) -> str:
    # An event that the framework makes of a raw push has its topic from the path, if anywhere.
    return f"/projects/{PROJECT}/topics/{deployed.queue}" if way == "on_event" else "/"


@pytest.mark.parametrize("way", ["on_event", "on_push"])
def test_every_pushed_task_ends_right(deploy: Callable[[str], Deployed], way: str) -> None:
    deployed = deploy(way)
    charge = "drill_function.charge"
    poison = {
        "{nonsense": "undecodable",
        '{"hello": "world"}': "foreign message",
        '{"v": 1, "id": "u", "task": "nobody.knows"}': "unknown task",
        '{"v": 9, "id": "v", "task": "drill_function.charge"}': "unknown version",
    }
    failing = {n: 2 if n % 10 == 0 else 0 for n in range(MESSAGES)}
    for body in poison:
        deployed.send_raw(body.encode())
    ids = [deployed.app.send_task(charge, (n, failing[n])).id for n in failing]
    started = time.monotonic()
    deployed.subscribe(path_of(deployed, way))
    records = deployed.records(ids, within=PATIENCE + MESSAGES / 5)
    took = time.monotonic() - started

    assert len(records) == len(ids), deployed.log()[-3000:]
    assert {records[id].state for id in ids} == {State.SUCCESS}
    assert [int(records[id].value or 0) for id in ids] == [n * 100 for n in failing]
    dead = deployed.dead(len(poison))
    assert sorted(dead) == sorted(poison)
    assert [body for body in poison if poison[body] not in dead[body]] == []

    executions = deployed.executions()
    due = {id: failing[n] + 1 for n, id in enumerate(ids)}
    assert [id for id in ids if executions[id] < due[id]] == []
    ran, least = sum(executions.values()), sum(due.values())
    print(
        f"\n{way}: {len(ids)} tasks, {ran} executions ({ran - least} of them duplicates), "
        f"{len(dead)} dead letters, in {took:.1f} s: {ran / took:.0f} executions/s"
    )


@pytest.mark.parametrize("way", ["on_event", "on_push"])
def test_what_is_put_back_is_pushed_again(
    deploy: Callable[[str], Deployed], way: str, tmp_path: Path
) -> None:
    deployed = deploy(way)
    args = [(n, str(tmp_path / f"marker-{n}")) for n in range(3)]
    ids = [deployed.app.send_task("drill_function.pick", each).id for each in args]
    deployed.subscribe(path_of(deployed, way))
    records = deployed.records(ids)
    assert [records[id].value for id in ids] == ["0", "1", "2"]
    assert [deployed.executions()[id] for id in ids] == [2, 2, 2]


def test_a_push_without_a_wrapper_is_understood(deploy: Callable[[str], Deployed]) -> None:
    deployed = deploy("on_push")
    deployed.subscribe("/", no_wrapper={"write_metadata": True})
    id = deployed.app.send_task("drill_function.charge", (3, 1)).id
    record = deployed.records([id])[id]
    assert (record.value, record.queue) == ("300", deployed.queue)


def test_a_delayed_retry_is_parked_and_sent_on_by_later_invocations(
    deploy: Callable[[str], Deployed],
) -> None:
    deployed = deploy("on_push")
    deployed.subscribe("/")
    late = deployed.app.send_task("drill_function.later", (7,)).id
    eventually(lambda: deployed.ledger.exists() and deployed.executions()[late] == 1)

    def pushed() -> dict[str, Record]:
        deployed.app.send_task("drill_function.charge", (1,))
        return deployed.records([late], within=0.3)

    record = eventually(pushed)[late]
    assert (record.value, record.retries) == ("7", 1)
