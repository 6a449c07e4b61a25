"""The functions in examples/ run their tasks, each under as much of its platform as there is here.

Google's is run by functions-framework, pushed to by Pub/Sub's emulator. Azure's is called through
the SDK's own converters with messages of the Service Bus stand-in. That of AWS is run by Lambda's
runtime client in `tests/functions/aws`.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from google.cloud.pubsub_v1 import SubscriberClient

from cloudq import CloudQ
from cloudq.driver import StoreAdmin
from cloudq.execution.invocation import NotSettled
from cloudq.results.record import State
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from localstack.google import PROJECT
from localstack.servers import Endpoint
from tests.docs.blocks import Shell
from tests.functions.azure.azure_host import QueueHost, binding, fire, functions
from tests.servers import unique

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


# ---- Google


@pytest.fixture
def google(pubsub: Endpoint, firestore: Endpoint, monkeypatch: pytest.MonkeyPatch) -> CloudQ:
    """A producer of the function's tasks; its settings are also the environment's."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{pubsub.port}")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{firestore.port}")
    monkeypatch.setenv("CLOUDQ_BROKER", f"pubsub://{PROJECT}")
    monkeypatch.setenv("CLOUDQ_BACKEND", f"firestore://{PROJECT}/{unique('results')}")
    monkeypatch.setenv("CLOUDQ_TASK_DEFAULT_QUEUE", unique("orders"))
    return CloudQ("producer")


def test_google_function(google: CloudQ, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "google_function" / "main.py", tmp_path)
    queue = google.conf.task_default_queue
    google.broker.admin.create(queue, lease=60, max_deliveries=20)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["functions-framework", "--target", "handler"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "function.log"
    with log.open("wb") as output:
        function = subprocess.Popen(
            command, cwd=tmp_path, env=Shell(tmp_path).environment, stdout=output, stderr=output
        )

    def is_up() -> bool:
        assert function.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        eventually(is_up)
        results = [google.send_task("main.charge", (n, n % 2)) for n in range(4)]
        with SubscriberClient() as client:
            # An event that the framework makes of a push has its topic from the path.
            path = f"http://127.0.0.1:{port}/projects/{PROJECT}/topics/{queue}"
            name = client.subscription_path(PROJECT, queue)
            pushed = {"subscription": name, "push_config": {"push_endpoint": path}}
            client.modify_push_config(request=pushed)
        assert [result.get(timeout=PATIENCE) for result in results] == [0, 100, 200, 300]
        assert [result.retries for result in results] == [0, 1, 0, 1], log.read_text()
    finally:
        function.terminate()
        try:
            function.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            function.kill()
            function.wait()
        google.broker.admin.delete(queue)
        google.close()


# ---- Azure


@pytest.fixture
def azure(
    servicebus: Endpoint, tables: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The example's module, on queues and a table of its own."""
    table = unique("results").replace("-", "")
    backend = tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?")
    monkeypatch.setenv("CLOUDQ_BROKER", servicebus.environment["CLOUDQ_BROKER"])
    monkeypatch.setenv("CLOUDQ_BACKEND", backend)
    monkeypatch.setenv("CLOUDQ_TASK_DEFAULT_QUEUE", unique("orders"))
    file = EXAMPLES / "azure_function" / "function_app.py"
    spec = importlib.util.spec_from_file_location("function_app", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "function_app", module)
    spec.loader.exec_module(module)
    app: CloudQ = module.app
    app.broker.admin.create(app.conf.task_default_queue, lease=60, max_deliveries=2)
    store = app.backend and app.backend.driver
    assert isinstance(store, StoreAdmin)
    store.create_store()
    yield module
    app.broker.admin.delete(app.conf.task_default_queue)
    app.close()


def test_azure_function(azure: ModuleType) -> None:
    app: CloudQ = azure.app
    queue = app.conf.task_default_queue
    found = functions(azure.function_app)
    host = QueueHost(found[f"cloudq_{queue}"], app.broker)
    assert host.binding["queueName"] == queue

    result = app.send_task("function_app.charge", (7, 1))
    for _ in range(2):  # the message, and the copy that is its retry
        host.pump()
        assert host.error is None
    assert (result.get(timeout=PATIENCE), result.retries) == (700, 1)

    nightly = found["cloudq_nightly"]
    assert binding(nightly)["schedule"] == "0 0 3 * * *"
    fire(nightly)
    (message,) = host.pump()
    assert host.error is None
    assert app.AsyncResult(message.id).state is State.SUCCESS
    assert app.AsyncResult(message.id).get(timeout=PATIENCE) == "the report of today"


def test_what_an_azure_function_cannot_run_is_dead_lettered_by_service_bus(
    azure: ModuleType,
) -> None:
    app: CloudQ = azure.app
    queue = app.conf.task_default_queue
    host = QueueHost(functions(azure.function_app)[f"cloudq_{queue}"], app.broker)
    sent = app.send_task("nobody.knows")
    for _ in range(2):
        host.pump()
        assert isinstance(host.error, NotSettled)
    (dead,) = eventually(lambda: app.broker.admin.peek_dead(queue, count=2))
    assert dead.id == sent.id
    assert "MaxDeliveryCountExceeded" in (dead.reason or "")


def test_azures_host_gives_a_task_the_time_that_the_function_counts_on() -> None:
    host = json.loads((EXAMPLES / "azure_function" / "host.json").read_text())
    bus = host["extensions"]["serviceBus"]
    for text in (host["functionTimeout"], bus["maxAutoLockRenewalDuration"]):
        hours, minutes, seconds = map(int, text.split(":"))
        assert timedelta(hours=hours, minutes=minutes, seconds=seconds) >= timedelta(seconds=300)
    assert bus["autoCompleteMessages"] is True
