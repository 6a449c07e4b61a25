"""A deployed zip under Lambda's own runtime client: cold start, cost a message, import times.

`make bench ARGS=lambda_start` builds the zip of a new project as `cloudq deploy apply` does,
and runs it with awslambdaric and nothing else on the path. The Lambda service, SQS and DynamoDB are
stand-ins on this machine, so the figures are of the code, not of AWS: milliseconds of CPU of the
function's process, in which the stand-ins' own time is not. The notes have the time that passed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "deploy"), str(ROOT / "adapters")]

from harness import Figure  # noqa: E402

from cloudq.cli import main as cloudq  # noqa: E402
from cloudq_deploy.aws.options import AwsOptions, own_architecture  # noqa: E402
from cloudq_deploy.aws.package import LAYOUT  # noqa: E402
from cloudq_deploy.bundle.build import build  # noqa: E402
from localstack.aws import MINISTACK  # noqa: E402
from localstack.servers import start  # noqa: E402
from tests.functions.aws.runtime_host import Invocation, RuntimeHost  # noqa: E402

_CLIENT = ("awslambdaric", "simplejson", "snapshot-restore-py")
# What is imported before the first event, from nothing to all; and the milliseconds of CPU that it
# may take.
_HANDLERS = {
    "the runtime client alone": ("bare", "def handler(event, context):\n    return {}\n", None),
    "an idle app: cloudq and its tasks": (
        "idle",
        "from shop.tasks import app\napp.load()\ndef handler(event, context):\n    return {}\n",
        200,
    ),
    "the deployed handler: broker and backend open": ("cloudq_function", None, 300),
}
# Milliseconds of CPU a message, by the size of the batch, without a store and with one.
_OVERHEAD = {(1, False): 1.0, (10, False): 0.2, (1, True): 2.0, (10, True): 0.3}
# The budget: milliseconds that a package's own modules may take; the others have none of their own.
_BUDGET = {
    "cloudq": 100,
    "cloudq_aws": 10,
    "cloudq_function": 60,
    "botocore": 45,
    "urllib3": 25,
    "pydantic": 40,
    "pydantic_core": 15,
}
_IMPORTS = 350
_SHOWN = 12
_BATCH = 10


def measure(quick: bool) -> Iterator[Figure]:
    """Figures of a new project's zip."""
    with TemporaryDirectory() as room, start(MINISTACK) as aws:
        folder = Path(room)
        task = _unpacked(folder)
        client = _runtime_client(folder)
        env = {
            **aws.environment,
            "AWS_LAMBDA_FUNCTION_NAME": "shop",
            "LAMBDA_TASK_ROOT": str(task),
            "PYTHONPATH": os.pathsep.join((str(task), str(client))),
            "PYTHONDONTWRITEBYTECODE": "1",  # /var/task cannot be written to
        }
        for what, (module, text, target) in _HANDLERS.items():
            if text:
                (task / f"{module}.py").write_text(text)
            yield _cold(what, module, env, task, target, runs=3 if quick else 9)
        yield from _records(env | {"CLOUDQ_BACKEND": "none"}, task, "without a store", quick)
        _make_table(aws.environment)
        yield from _records(env, task, "results stored", quick)
        yield from _imports(env, task, runs=2 if quick else 5)


def _unpacked(folder: Path) -> Path:
    project, task = folder / "shop", folder / "task"
    if cloudq(["init", "shop", "--in", str(project)]):
        raise SystemExit("cloudq init failed")
    options = AwsOptions(architecture=own_architecture(), services=("sqs", "dynamodb"))
    file = folder / "shop.zip"
    package = build(project, "shop.tasks:app", options.selection(), file, LAYOUT, print)
    print(f"{package.zipped / 2**20:.1f} MB, {package.unzipped / 2**20:.1f} MB unzipped")
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(task)
    return task


def _runtime_client(folder: Path) -> Path:
    """Lambda's client beside the zip, as it is in Lambda's own image."""
    target = folder / "runtime"
    for name in _CLIENT:
        found = distribution(name)
        for path in found.files or ():
            if ".." not in path.parts and path.suffix != ".pyc":
                copy = target / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(Path(str(found.locate_file(path))).read_bytes())
    return target


def _cpu(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process so far, its threads included: psutil knows them by the 1/100 s."""
    return time.clock_gettime(~process.pid << 3 | 2)


@contextmanager
def _running(
    module: str, env: Mapping[str, str], task: Path
) -> Iterator[tuple[RuntimeHost, subprocess.Popen[bytes]]]:
    """The function under the runtime client, which has asked for work."""
    host = RuntimeHost()
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "awslambdaric", f"{module}.handler"],
        cwd=task,
        env={**env, "AWS_LAMBDA_RUNTIME_API": host.address},
        stdout=subprocess.DEVNULL,
    )
    try:
        while not host.ready:
            if host.init_error or process.poll() is not None:
                raise SystemExit(f"{module} did not start: {host.init_error}")
            time.sleep(0.001)
        yield host, process
    finally:
        process.kill()
        process.wait()
        host.close()


def _cold(
    what: str, module: str, env: Mapping[str, str], task: Path, target: float | None, runs: int
) -> Figure:
    times: list[float] = []
    passed: list[float] = []
    for _ in range(runs):
        began = time.monotonic()
        with _running(module, env, task) as (_, process):
            passed.append((time.monotonic() - began) * 1000)
            times.append(_cpu(process) * 1000)
    note = (
        f"best of {runs}, median {statistics.median(times):.0f} ms; by the clock"
        f" {min(passed):.0f}, median {statistics.median(passed):.0f} ms"
    )
    return Figure(what=f"cold start, {what}", value=min(times), unit="ms", target=target, note=note)


def _records(env: Mapping[str, str], task: Path, how: str, quick: bool) -> Iterator[Figure]:
    batches = 20 if quick else 200
    with _running("cloudq_function", env, task) as (host, process):
        for size in (1, _BATCH):
            times: list[float] = []
            passed: list[float] = []
            for _ in range(batches):
                before, began = _cpu(process), time.monotonic()
                done = host.invoke(_invocation(size))
                if done.error or done.response["batchItemFailures"]:
                    raise SystemExit(f"the batch failed: {done.error or done.response}")
                _wait_for_next(host, len(host.invocations))
                times.append((_cpu(process) - before) * 1000 / size)
                passed.append((time.monotonic() - began) * 1000 / size)
            yield Figure(
                what=f"a message in batches of {size}, {how}",
                value=statistics.median(times),
                unit="ms",
                target=_OVERHEAD[size, env.get("CLOUDQ_BACKEND") != "none"],
                note=f"median of {batches} batches, the first {times[0]:.1f} ms; by the clock, with"
                f" the stand-ins' own time, {statistics.median(passed):.1f} ms",
            )


def _wait_for_next(host: RuntimeHost, done: int) -> None:
    """Wait until the function asks for its next event: what follows a response counts as well."""
    while len(host.ready) <= done:
        time.sleep(0.0005)


def _invocation(size: int) -> Invocation:
    records = [_record(str(uuid.uuid4())) for _ in range(size)]
    event = json.dumps({"Records": records}).encode()
    return Invocation(id=str(uuid.uuid4()), event=event, deadline_ms=int((time.time() + 30) * 1000))


def _record(id: str) -> dict[str, object]:
    call = {
        "v": 1,
        "id": id,
        "task": "shop.tasks.add",
        "args": [2, 3],
        "queue": "default",
        "sent_at": round(time.time(), 3),
    }
    return {
        "messageId": id,
        "receiptHandle": id,
        "body": json.dumps(call),
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "0"},
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:default",
        "awsRegion": "us-east-1",
    }


def _make_table(env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "cloudq", "queues", "create", "default", "--store"]
    subprocess.run(command, env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL)


def _imports(env: Mapping[str, str], task: Path, runs: int) -> Iterator[Figure]:
    """The time that each package's own modules add to the cold start: the best of some runs."""
    found = [_import_times(env, task) for _ in range(runs)]
    sums = {package: min(run[package] for run in found) for package in found[0]}
    total = sum(sums.values())
    yield Figure(
        what="imports of the deployed handler",
        value=total,
        unit="ms",
        target=_IMPORTS,
        note=f"all modules, each package's best of {runs}",
    )
    ranked = sorted(sums.items(), key=lambda pair: -pair[1])
    for place, (package, took) in enumerate(ranked):
        if place < _SHOWN or package in _BUDGET:
            yield Figure(
                what=f"  import {package}",
                value=took,
                unit="ms",
                target=_BUDGET.get(package),
                note="its own modules",
            )


def _import_times(env: Mapping[str, str], task: Path) -> dict[str, float]:
    """Milliseconds of each package's own modules in a fresh interpreter."""
    # With this the handler opens its broker and backend at once, botocore with them.
    own = {**env, "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-S", "-X", "importtime", "-c", "import cloudq_function"],
        cwd=task,
        env=own,
        check=True,
        capture_output=True,
        text=True,
    )
    sums: dict[str, float] = {}
    for line in done.stderr.splitlines():
        itself, _, name = line.removeprefix("import time:").split("|")
        if itself.strip().isdigit():
            package = name.strip().partition(".")[0]
            sums[package] = sums.get(package, 0.0) + int(itself) / 1000
    return sums
