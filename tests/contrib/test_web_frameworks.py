"""Programs of examples/web under the servers that people run them with: no call is lost.

Each server's program has sent a call before the server forks, and one of its processes is killed
between two halves of the requests, so that it forks once more. CLOUDQ_DRILL=full sends 1,000
requests to each, else it is 200.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import StaticPool

from cloudq import Call, CloudQ, CloudQError, Middleware, wait_for
from cloudq.testing import drain, eventually
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.docs.blocks import Command, Shell
from tests.servers import unique
from tests.support.ports import free_port

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "web"
REQUESTS = 1000 if os.environ.get("CLOUDQ_DRILL") == "full" else 200
BIN = Path(sys.executable).parent
# The web application's module, after it has sent a call and looked for its end.
EARLY = """
import sys
import {name} as shop

call = shop.charge.delay(0)
call.state
with open("early.txt", "a") as early:
    print(call.id, file=early)
web = getattr(shop, "web", None)
if __name__ == "__main__":
    shop.main(int(sys.argv[1]))
"""
GUNICORN = "gunicorn --preload --workers 2 --bind 127.0.0.1:PORT --no-control-socket"
# The example, the server's command, and how many processes it forks.
SERVERS = {
    "fastapi under uvicorn": (
        "in_fastapi",
        "uvicorn --workers 2 --port PORT early:web",
        2,
    ),
    "fastapi under gunicorn": (
        "in_fastapi",
        f"{GUNICORN} --worker-class uvicorn_worker.UvicornWorker early:web",
        2,
    ),
    "flask under gunicorn": ("in_flask", f"{GUNICORN} --threads 4 early:web", 2),
    "flask under uwsgi": (
        "in_flask",
        "uwsgi --http-socket 127.0.0.1:PORT --master --processes 2 --threads 4 "
        "--die-on-term --module early:web",
        2,
    ),
    "pyramid under waitress": ("in_pyramid", "waitress-serve --listen 127.0.0.1:PORT early:web", 0),
    "pyramid under gunicorn": ("in_pyramid", f"{GUNICORN} --threads 4 early:web", 2),
    "tornado": ("in_tornado", "python early.py PORT", 2),
}
# uvicorn's processes are no forks: each imports the program anew.
SPAWNED = {"fastapi under uvicorn"}


class Site:
    """A web application that runs under its server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def ask(self, method: str, path: str, timeout: float = PATIENCE) -> tuple[int, Any]:
        """Send one request by a connection of its own; the status, and the JSON of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return answer.status, json.loads(body) if is_json else body
        finally:
            connection.close()

    def order(self, number: int) -> str:
        """Send a request that sends a call; the call's id."""
        status, body = self.ask("POST", f"/orders/{number}")
        assert status in (200, 202), (status, body, self.log.read_text()[-3000:])
        return body["id"]

    def answers(self) -> bool:
        """Tell whether it answers yet."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("GET", "/nowhere")[0] == 404
        except OSError:
            return False

    def children(self) -> list[psutil.Process]:
        """The processes that answer for it."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if _answers(child)]

    def replace_one(self) -> None:
        """Kill one of its processes, and wait until it has made another."""
        before = {child.pid for child in self.children()}
        lost = self.children()[0]
        lost.kill()

        def is_replaced() -> bool:
            now = {child.pid for child in self.children()}
            return lost.pid not in now and len(now) == len(before) and self.answers()

        eventually(is_replaced)


def _answers(child: psutil.Process) -> bool:
    """Tell whether a process of a server lives, and is no helper of `multiprocessing`."""
    try:
        return "resource_tracker" not in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # a zombie, too
        return False


@contextmanager
def served(folder: Path, environment: dict[str, str], name: str, command: str) -> Iterator[Site]:
    """Run an example's program under a server."""
    port = free_port()
    shutil.copy(EXAMPLES / f"{name}.py", folder)
    (folder / "early.py").write_text(EARLY.format(name=name))
    program, *words = command.replace("PORT", f"{port}").split()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / program, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{folder}", **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        site = Site(process, port, log)
        eventually(site.answers)
        yield site
        process.terminate()
        process.wait(PATIENCE)
    finally:
        for left in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, left)
            except ProcessLookupError:
                break
        process.wait()


def on_sqlite(folder: Path) -> dict[str, str]:
    """The variables that name the queue of a test."""
    return {"CLOUDQ_BROKER": f"sqlite:///{folder}/queue.db"}


@pytest.mark.drill
@pytest.mark.parametrize("server", SERVERS)
def test_no_call_of_a_request_is_lost(server: str, tmp_path: Path) -> None:
    nothing_is_lost(server, tmp_path, on_sqlite(tmp_path))


@pytest.mark.drill
@pytest.mark.parametrize("server", ["fastapi under gunicorn", "flask under uwsgi", "tornado"])
def test_no_call_of_a_request_is_lost_on_sqs(
    server: str, tmp_path: Path, aws: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = f"sqs://eu-west-1?prefix={unique('web')}-"
    environment = aws.environment | {"CLOUDQ_BROKER": broker}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Shell(tmp_path, environment) as shell:
        shell.run(Command(line="cloudq queues create default --store"))
    nothing_is_lost(server, tmp_path, environment)


def nothing_is_lost(server: str, folder: Path, environment: dict[str, str]) -> None:
    """Send requests of which each sends a call, and see that each call has run."""
    name, command, processes = SERVERS[server]
    with (
        CloudQ("shop", broker=environment["CLOUDQ_BROKER"]) as app,
        Shell(folder, environment) as shell,
        served(folder, environment, name, command) as site,
        ThreadPoolExecutor(8) as clients,
    ):
        shell.run(Command(line=f"cloudq worker -A {name} --processes 1 --threads 4"))
        eventually(lambda: len(site.children()) == processes)
        half = REQUESTS // 2
        ids = [*clients.map(site.order, range(half))]
        if processes:
            site.replace_one()
        ids += clients.map(site.order, range(half, REQUESTS))
        early = (folder / "early.txt").read_text().split()
        assert len(early) == 1 or server in SPAWNED
        sent = [app.AsyncResult(id) for id in [*ids, *early]]
        wait_for(sent, timeout=4 * PATIENCE)
        values = [result.get(timeout=1) for result in sent]
        assert values == [number * 100 for number in range(REQUESTS)] + [0] * len(early)
        last = {"state": "SUCCESS", "value": (REQUESTS - 1) * 100}
        assert site.ask("GET", f"/calls/{ids[-1]}") == (200, last)


@pytest.mark.drill
@pytest.mark.parametrize("server", ["fastapi under uvicorn", "tornado"])
def test_the_event_loop_has_other_requests_while_a_call_is_sent(
    server: str, tmp_path: Path
) -> None:
    name, command, _ = SERVERS[server]
    command = command.replace("--workers 2 ", "")
    with (
        served(tmp_path, on_sqlite(tmp_path), name, command) as site,
        ThreadPoolExecutor(4) as clients,
    ):
        # All sends wait for this transaction, as they do for a cloud that is slow to answer.
        with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            orders = [clients.submit(site.order, number) for number in range(4)]
            for _ in range(50):
                assert site.ask("GET", "/nowhere", timeout=PATIENCE)[0] == 404
            assert not any(order.done() for order in orders)
            other.execute("ROLLBACK")
        assert len({order.result(PATIENCE) for order in orders}) == 4


@pytest.mark.slow
def test_calls_are_sent_when_their_transaction_commits(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "after_commit.py", tmp_path)
    with Shell(tmp_path, on_sqlite(tmp_path)) as shell:
        shell.run(Command(line="cloudq worker -A after_commit --processes 1"))
        shell.run(Command(line="python after_commit.py", output=["order 1: [100]", "order 2: []"]))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The recipe for SQLAlchemy in this process, over a queue in memory."""
    monkeypatch.setenv("CLOUDQ_BROKER", "memory://web")
    monkeypatch.syspath_prepend(EXAMPLES)
    shop = importlib.import_module("after_commit")
    yield shop
    del sys.modules["after_commit"]
    event.remove(shop.Session, "after_commit", shop._committed)
    event.remove(shop.Session, "after_transaction_end", shop._ended)


def test_calls_of_savepoints_are_sent_with_the_whole_transaction(shop: Any) -> None:
    engine = create_engine("sqlite://")
    calls: list[int] = []
    shop.app.middleware.append(noting(calls))
    kept, gone, outer = shop.charge.prepare(1), shop.charge.prepare(2), shop.charge.prepare(3)
    with shop.app, shop.Session(engine) as session:
        shop.send_on_commit(session, outer)
        with session.begin_nested():
            shop.send_on_commit(session, kept)
        with session.begin_nested() as around:
            with session.begin_nested():
                shop.send_on_commit(session, gone)
            around.rollback()
        drain(shop.app)
        assert calls == []
        session.commit()
        shop.send_on_commit(session, gone)
        session.close()
        session.commit()
        assert session.info[shop.HELD] == {}
        drain(shop.app)
    engine.dispose()
    assert sorted(calls) == [1, 3]


def test_a_session_can_be_used_after_a_commit_whose_calls_could_not_be_sent(
    shop: Any, tmp_path: Path
) -> None:
    shop.app.configure(broker=f"sqlite:///{tmp_path}/no/such/folder/queue.db")
    engine = create_engine("sqlite://", poolclass=StaticPool)
    shop.Base.metadata.create_all(engine)
    with shop.app, shop.Session(engine) as session:
        session.add(shop.Order(id=1))
        shop.send_on_commit(session, shop.charge.prepare(1))
        with pytest.raises(CloudQError):
            session.commit()
        assert session.get(shop.Order, 1) is not None
        session.commit()
    engine.dispose()


def noting(calls: list[int]) -> Middleware:
    """Make a middleware that notes the orders and runs nothing."""

    def layer(_: Call) -> Call:
        return lambda context: calls.append(context.args[0])

    return layer
