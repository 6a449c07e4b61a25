"""Celery itself, from its own package, and cloudq on one SQS: each runs what the other sends."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from cloudq import CloudQ
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.servers import lacking, unique

HERE = Path(__file__).parent

CELERY = ["-m", "celery", "-A", "celery_program", "worker", "-P", "solo", "--loglevel=INFO"]
CLOUDQ = ["-m", "cloudq", "worker", "-A", "cloudq_program:app", "--processes", "1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Programs of both kinds around one queue, and the ledger of what their tasks did."""

    folder: Path
    queue: str
    app: CloudQ
    environment: dict[str, str]

    def entries(self) -> list[dict[str, Any]]:
        ledger = Path(self.environment["PROGRAM_LEDGER"])
        return [json.loads(line) for line in ledger.read_text().splitlines()]

    def wait_for(self, done: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Wait until `done` is true of the ledger, and return the ledger."""
        eventually(lambda: done(self.entries()))
        return self.entries()

    def celery(self, code: str) -> str:
        """Run a few lines of a Celery producer and return what they print."""
        script = "from celery_program import *\nfrom celery import chain, chord, group\n" + code
        ran = subprocess.run(
            [sys.executable, "-c", script],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    @contextmanager
    def worker(self, command: Sequence[str], ready: str) -> Iterator[None]:
        """A worker of either kind, for the length of a block."""
        log = self.folder / "worker.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *command, "-Q", self.queue],
                env=self.environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )
        family = psutil.Process(process.pid)
        try:
            eventually(lambda: ready in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()[-5000:]}") from error
        finally:
            members = [family, *family.children(recursive=True)] if family.is_running() else []
            for member in members:
                member.kill()
            process.wait()
            psutil.wait_procs(members, timeout=PATIENCE)

    def celery_worker(self) -> Any:
        return self.worker(CELERY, "ready.")

    def cloudq_worker(self) -> Any:
        return self.worker(CLOUDQ, "is ready")


@pytest.fixture
def programs(aws: Endpoint, tmp_path: Path) -> Iterator[Programs]:
    if importlib.util.find_spec("celery") is None or importlib.util.find_spec("pycurl") is None:
        lacking("no Celery with SQS: pip install 'celery[sqs]'")
    queue, ledger = unique("celery"), tmp_path / "ledger"
    ledger.touch()
    backend = f"sqlite:///{tmp_path}/results.db"
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PROGRAM_SQS": aws.url,
        "PROGRAM_QUEUE": queue,
        "PROGRAM_LEDGER": str(ledger),
        "PROGRAM_BACKEND": backend,
    }
    url = f"sqs://?endpoint_url={aws.url}"
    with CloudQ("producer", broker=url, backend=backend, task_default_queue=queue) as app:
        app.broker.admin.create(queue, lease=10, max_deliveries=5)
        yield Programs(folder=tmp_path, queue=queue, app=app, environment=environment)


def by(entries: Sequence[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["task"] == task]


def test_a_celery_producer_feeds_a_cloudq_worker(programs: Programs) -> None:
    """A plain call with options, values that JSON lacks, a retry, a chain and callbacks."""
    sent = programs.celery(
        """
import datetime, decimal, uuid
first = add.apply_async((1, 2), expires=600, time_limit=50, soft_time_limit=40,
                        headers={"tenant": "blue"})
show.delay(datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), decimal.Decimal("1.5"),
           b"\\xff", key=uuid.UUID(int=7))
flaky.delay("again")
chain(add.s(3, 4), add.s(10), group(add.s(100), add.s(200)),
      app.signature("program.total")).apply_async()
add.apply_async((5, 6), link=add.s(1000), countdown=2)
app.signature("program.broken", ("x",)).apply_async(
    task_id="breaks", link_error=app.signature("program.failed"))
print(first.id)
"""
    )
    with programs.cloudq_worker():
        entries = programs.wait_for(
            lambda found: len(by(found, "total")) and len(by(found, "add")) == 7
            and len(by(found, "flaky")) == 2 and by(found, "failed") and by(found, "show")
        )  # fmt: skip
    assert {entry["by"] for entry in entries} == {"cloudq"}
    calls = {tuple(entry["args"]): entry for entry in by(entries, "add")}
    assert set(calls) == {(1, 2), (3, 4), (7, 10), (17, 100), (17, 200), (5, 6), (11, 1000)}
    plain = calls[1, 2]
    assert (plain["id"], plain["root"], plain["tenant"]) == (sent, sent, "blue")
    assert plain["limits"] == [50, 40]
    assert datetime.fromisoformat(plain["expires"]) > datetime.now(UTC)
    assert calls[5, 6]["eta"]
    assert calls[7, 10]["root"] == calls[3, 4]["id"]
    assert sorted(by(entries, "total")[0]["args"]) == [117, 217]
    assert [entry["retries"] for entry in by(entries, "flaky")] == [0, 1]
    assert by(entries, "failed")[0]["args"] == ["breaks"]
    [shown] = by(entries, "show")
    assert shown["args"] == repr(
        (datetime(2026, 1, 2, tzinfo=UTC), __import__("decimal").Decimal("1.5"), b"\xff")
    )
    assert shown["kwargs"] == repr({"key": UUID(int=7)})
    assert programs.app.AsyncResult(sent).get(timeout=PATIENCE) == 3


def test_a_celery_worker_runs_what_cloudq_sends(programs: Programs) -> None:
    """The same the other way: options, values, a retry of Celery's own, a chain, callbacks."""
    app = programs.app
    app.conf.queue_produce[programs.queue] = "celery"
    first = app.send_task(
        "program.add", (1, 2), expires=600, time_limit=50, soft_time_limit=40,
        headers={"tenant": "blue"},
    )  # fmt: skip
    app.send_task("program.show", (datetime(2026, 1, 2, tzinfo=UTC), b"\xff"), {"key": UUID(int=7)})
    app.send_task("program.flaky", ("again",), compression="zlib")
    (app.signature("program.add", (3, 4)) | app.signature("program.add", (10,))).delay()
    app.signature("program.add", (5, 6)).link(
        app.signature("program.add", (1000,))
    ).apply_async(countdown=2)  # fmt: skip
    with programs.celery_worker():
        entries = programs.wait_for(
            lambda found: len(by(found, "add")) == 5 and len(by(found, "flaky")) == 2
            and by(found, "show")
        )  # fmt: skip
    assert {entry["by"] for entry in entries} == {"celery"}
    calls = {tuple(entry["args"]): entry for entry in by(entries, "add")}
    assert set(calls) == {(1, 2), (3, 4), (7, 10), (5, 6), (11, 1000)}
    plain = calls[1, 2]
    assert (plain["id"], plain["root"], plain["tenant"]) == (first.id, first.id, "blue")
    assert plain["limits"] == [50, 40]
    assert datetime.fromisoformat(plain["expires"]) > datetime.now(UTC)
    assert calls[5, 6]["eta"]
    assert calls[7, 10]["root"] == calls[3, 4]["id"]
    assert [entry["retries"] for entry in by(entries, "flaky")] == [0, 1]
    [shown] = by(entries, "show")
    assert shown["args"] == repr((datetime(2026, 1, 2, tzinfo=UTC), b"\xff"))
    assert shown["kwargs"] == repr({"key": UUID(int=7)})
