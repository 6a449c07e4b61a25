"""A zipped function under Lambda's own runtime client, behind an SQS event source mapping.

Real: the runtime client, the zip, the queues and their dead letters, the table. Stood in for:
the Lambda service (`RuntimeHost`), the mapping and SQS (ministack).
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest

from cloudq import CloudQ
from cloudq.results.record import Record, State
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.functions.aws.package import ROOT, build
from tests.functions.aws.runtime_host import RuntimeHost
from tests.servers import unique

pytestmark = pytest.mark.drill

MESSAGES = 1000 if os.environ.get("CLOUDQ_DRILL") == "full" else 100
EXAMPLE = ROOT / "examples" / "lambda_app"


class Function:
    """An unpacked zip, run by the runtime client as a child process; replaced when it is killed."""

    def __init__(self, zipped: Path, folder: Path, host: RuntimeHost, env: dict[str, str]) -> None:
        with zipfile.ZipFile(zipped) as archive:
            archive.extractall(folder)
        self.host = host
        self.folder = folder
        self.cold: list[float] = []
        # Nothing of this environment but what Lambda would set.
        self.env = env | {
            "AWS_LAMBDA_RUNTIME_API": host.address,
            "AWS_LAMBDA_FUNCTION_NAME": "orders",
            "LAMBDA_TASK_ROOT": str(folder),
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        seen = len(self.host.ready)
        started = time.monotonic()
        # -S: no site-packages, so that whatever the zip lacks is missing.
        command = [sys.executable, "-S", "-m", "awslambdaric", "app.handler"]
        with (self.folder.parent / "function.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=log, stderr=subprocess.STDOUT
            )
        while len(self.host.ready) == seen:
            assert process.poll() is None, self.log()
            assert not self.host.init_error, self.host.init_error
            assert time.monotonic() < started + PATIENCE
            time.sleep(0.005)
        self.cold.append(self.host.ready[seen] - started)
        return process

    def replace(self) -> None:
        self.stop()
        self.process = self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self.folder.parent / "function.log").read_text()


class Deployed:
    """A function behind its queue; tasks are sent with `module`, the same code on this side."""

    def __init__(self, module: ModuleType, queue: str, host: RuntimeHost, ledger: Path) -> None:
        self.module = module
        self.app: CloudQ = module.app
        self.queue = queue
        self.host = host
        self.ledger = ledger
        self.function: Function

    def records(self, ids: list[str], *, timeout: float = PATIENCE) -> dict[str, Record]:
        """The ended records of these tasks; all of them, unless time runs out."""
        assert self.app.backend is not None
        until = time.monotonic() + timeout
        ended: dict[str, Record] = {}
        while len(ended) < len(ids) and time.monotonic() < until:
            left = [id for id in ids if id not in ended]
            found = self.app.backend.records(left)
            ended |= {id: record for id, record in found.items() if record.terminal}
            time.sleep(0.05)
        return ended

    def executions(self) -> Counter[str]:
        return Counter(line.split()[1] for line in self.ledger.read_text().splitlines())

    def empty(self, timeout: float = PATIENCE) -> bool:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            stats = self.app.broker.admin.stats(self.queue)
            if not (stats.ready or stats.delayed or stats.leased):
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def deploy(
    aws: Endpoint, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Deployed]]:
    undo: list[Callable[[], Any]] = []

    def make(*, timeout: int = 30, lease: float = 60) -> Deployed:
        queue, host, ledger = unique("orders"), RuntimeHost(), tmp_path / "ledger"
        undo.append(host.close)
        env = aws.environment | {
            "CLOUDQ_BACKEND": f"dynamodb://{table}",
            "CLOUDQ_TASK_DEFAULT_QUEUE": queue,
            "LEDGER": str(ledger),
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        deployed = Deployed(_module(), queue, host, ledger)
        undo.append(deployed.app.close)
        deployed.app.broker.admin.create(queue, lease=lease, max_deliveries=5)
        zipped = build(EXAMPLE, tmp_path / "function.zip")
        deployed.function = Function(zipped, tmp_path / "task", host, env)
        undo.append(lambda: deployed.function.stop())
        undo.append(_connect(aws, queue, host.address, zipped, timeout))
        return deployed

    yield make
    for step in reversed(undo):
        step()


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("app", EXAMPLE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _connect(
    aws: Endpoint, queue: str, address: str, zipped: Path, timeout: int
) -> Callable[[], None]:
    """Makes what docs/how-to/run-in-lambda.md says; returns the function that undoes it."""
    client: Any = boto3.client("lambda", endpoint_url=aws.url)
    name = unique("function")
    client.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/function",
        Handler="app.handler",
        Timeout=timeout,
        Code={"ZipFile": zipped.read_bytes()},
        Environment={"Variables": {"MINISTACK_LAMBDA_PROXY_URL": f"http://{address}/"}},
    )
    mapping = client.create_event_source_mapping(
        EventSourceArn=f"arn:aws:sqs:us-east-1:000000000000:{queue}",
        FunctionName=name,
        BatchSize=10,
        FunctionResponseTypes=["ReportBatchItemFailures"],
        ScalingConfig={"MaximumConcurrency": 2},
    )

    def undo() -> None:
        client.delete_event_source_mapping(UUID=mapping["UUID"])
        client.delete_function(FunctionName=name)
        client.close()

    return undo


def test_a_zipped_function_does_every_task_right(deploy: Callable[..., Deployed]) -> None:
    deployed = deploy()
    charge, pick, app = deployed.module.charge, deployed.module.pick, deployed.app
    # Every tenth is retried twice by cloudq; every twentieth is put back twice as it is.
    calls = [charge.prepare(n, failures=2 if n % 10 == 0 else 0) for n in range(MESSAGES)]
    calls += [pick.prepare(n, busy=2 if n % 10 == 0 else 0) for n in range(MESSAGES // 2)]
    wanted = [n * 100 for n in range(MESSAGES)] + [n + 1 for n in range(MESSAGES // 2)]
    poison = {
        "{nonsense": "undecodable",
        '{"hello": "world"}': "foreign message",
        '{"v": 1, "id": "u", "task": "nobody.knows"}': "unknown task",
        '{"v": 9, "id": "v", "task": "app.charge"}': "unknown version",
    }
    sqs: Any = app.broker.driver.client  # type: ignore[attr-defined]
    url = sqs.get_queue_url(QueueName=deployed.queue)["QueueUrl"]
    for body in poison:
        sqs.send_message(QueueUrl=url, MessageBody=body)
    started = time.monotonic()
    ids = [result.id for result in app.publish(calls)]
    records = deployed.records(ids, timeout=PATIENCE + MESSAGES / 10)
    took = time.monotonic() - started
    assert deployed.empty(), deployed.function.log()

    assert len(records) == len(ids), deployed.function.log()[-3000:]
    assert {records[id].state for id in ids} == {State.SUCCESS}
    assert [int(records[id].value or 0) for id in ids] == wanted
    dead = app.broker.admin.peek_dead(deployed.queue, count=10)
    reasons = {letter.body.decode(): letter.reason or "" for letter in dead}
    assert sorted(reasons) == sorted(poison)
    assert [body for body in poison if poison[body] not in reasons[body]] == []

    errors = [i.error for i in deployed.host.invocations.values() if i.error]
    assert errors == [], "no batch failed as a whole"
    executions = deployed.executions()
    due = {id: 3 if n % 10 == 0 else 1 for n, id in enumerate(ids[:MESSAGES])}
    due |= {id: 3 if n % 10 == 0 else 1 for n, id in enumerate(ids[MESSAGES:])}
    assert [id for id in ids if executions[id] < due[id]] == []
    report(deployed, sum(due.values()), sum(executions.values()), took)


def test_a_function_that_times_out_costs_only_the_task_that_hangs(
    deploy: Callable[..., Deployed],
) -> None:
    deployed = deploy(timeout=8, lease=10)
    deployed.host.on_timeout = deployed.function.replace
    # Which messages share a batch is for the event source to say, so it may take a few tries.
    for number in range(5):
        hang_among_others(deployed, number)
        timed_out = [i for i in deployed.host.invocations.values() if i.error == "timed out"]
        if any(i.event.count(b'"receiptHandle"') > 1 for i in timed_out):
            break
    else:
        pytest.fail("the hanging task was never in a batch with others")
    assert len(deployed.function.cold) >= 2, "the runtime was killed, as Lambda does"


def hang_among_others(deployed: Deployed, number: int) -> None:
    """Send a task that hangs with five that do not: these run once, and the other comes back."""
    charge, app = deployed.module.charge, deployed.app
    hanging = deployed.module.print_label.prepare(number, 60.0)
    *done, label = app.publish([*(charge.prepare(n) for n in range(5)), hanging])
    records = deployed.records([result.id for result in done])
    until = time.monotonic() + PATIENCE
    while deployed.executions()[label.id] < 2 and time.monotonic() < until:
        time.sleep(0.1)
    executions = deployed.executions()

    assert len(records) == len(done)
    assert [executions[result.id] for result in done] == [1] * len(done)
    assert executions[label.id] >= 2, "it came back"


def report(deployed: Deployed, due: int, ran: int, took: float) -> None:
    done = [i for i in deployed.host.invocations.values() if i.response is not None]
    sizes = [i.event.count(b'"receiptHandle"') for i in done]
    reported = sum(len(i.response["batchItemFailures"]) for i in done)
    each = [i.seconds / size * 1000 for i, size in zip(done, sizes, strict=True) if size == 10]
    print(
        f"\n{ran} executions ({ran - due} of them duplicates) in {took:.1f} s, "
        f"{ran / took:.0f}/s; {len(done)} invocations of {statistics.mean(sizes):.1f} messages, "
        f"{reported} failures reported; {statistics.median(each or [0]):.2f} ms a message in full "
        f"batches; cold start {deployed.function.cold[0] * 1000:.0f} ms, first invocation "
        f"{done[0].seconds * 1000:.0f} ms"
    )
