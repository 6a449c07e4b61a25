"""Forked processes on the clouds' services: connections of gRPC, AMQP and HTTP are not shared."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from cloudq.broker.broker import Broker
from cloudq.driver.loader import open_broker
from localstack.google import PROJECT
from localstack.servers import Endpoint
from tests.servers import unique
from tests.support.forking import run_forking


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """A cloud's broker and store, and a queue that is there."""

    broker: str
    backend: str
    queue: str

    def run(self, program: str, **environment: str) -> list[str]:
        """The lines that a program prints."""
        urls = (self.broker, self.backend, self.queue)
        return run_forking(program, *urls, environment=environment).split("\n")


@pytest.fixture
def google(pubsub: Endpoint, firestore: Endpoint) -> Cloud:
    return _ready(
        f"pubsub://{PROJECT}?emulator=127.0.0.1:{pubsub.port}",
        f"firestore://{PROJECT}/forks?emulator=127.0.0.1:{firestore.port}",
    )


@pytest.fixture
def azure(servicebus: Endpoint, tables: Endpoint) -> Cloud:
    return _ready(servicebus.environment["CLOUDQ_BROKER"], tables.environment["CLOUDQ_BACKEND"])


@pytest.fixture(params=["google", "azure"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    return request.getfixturevalue(request.param)


def _ready(broker: str, backend: str) -> Cloud:
    queue = unique("forks")
    opened = Broker(open_broker(broker), url=broker)
    for name in (queue, f"{queue}-sent"):
        opened.admin.create(name, lease=30, max_deliveries=10)
    opened.close()
    return Cloud(broker=broker, backend=backend, queue=queue)


PREPARED = """
app.backend.driver.create_store()
first = double.delay(1)
worked(first, 2)
"""

EVERYTHING = (
    PREPARED
    + """
def child():
    assert app.AsyncResult(first.id).get(timeout=10) == 2
    worked(double.delay(3), 6)
    mine = slow_double.delay(4)
    worker = threading.Timer(0.2, worked, [app.AsyncResult(mine.id), 8])
    worker.start()
    assert asyncio.run(awaited(mine)) == 8
    worker.join()
print([forked(child) for _ in range(3)])
worked(double.delay(5), 10)
worked(slow_double.delay(6), 12)
print("on")
"""
)


def test_a_child_sends_waits_and_works_as_its_parent_does(cloud: Cloud) -> None:
    assert cloud.run(EVERYTHING) == ["[0, 0, 0]", "on"]


AMID_THREADS = (
    PREPARED
    + """
go, errors, calls, pause = True, [], [0] * 6, threading.Event()
def keep(place, call):
    while go:
        try: call()
        except Exception as error: errors.append(error)
        calls[place] += 1
        pause.wait(0.01)
def read(): assert app.AsyncResult(first.id).get(timeout=10) == 2
def send(): double.apply_async((1,), queue=app.conf.task_default_queue + "-sent")
doing = [send] * 3 + [read] * 2 + [lambda: drain(app)]
threads = [threading.Thread(target=keep, args=each) for each in enumerate(doing)]
for thread in threads: thread.start()
def child():
    result = double.delay(2)
    read()
    assert result.state is not None
    if turn % 5 == 0: worked(result, 4)
ends = []
for turn in range(TURNS):
    ends.append(forked(child))
    before = list(calls)
    end = time.monotonic() + 30
    while calls == before and time.monotonic() < end: time.sleep(0.01)
go = False
for thread in threads: thread.join(60)
print(sorted(set(ends)), [thread for thread in threads if thread.is_alive()], errors)
worked(double.delay(5), 10)
"""
)


def test_children_are_made_while_threads_send_read_and_receive(cloud: Cloud) -> None:
    assert cloud.run(AMID_THREADS.replace("TURNS", "12")) == ["[0] [] []"]


def test_what_grpc_is_told_of_forks_changes_nothing(google: Cloud) -> None:
    program = AMID_THREADS.replace("TURNS", "8")
    assert google.run(program, GRPC_ENABLE_FORK_SUPPORT="1") == ["[0] [] []"]


GENERATIONS = (
    PREPARED
    + """
def generation(n):
    worked(double.delay(n), 2 * n)
    read = app.AsyncResult(first.id).get(timeout=10)
    assert read == 2
    if n: assert forked(lambda: generation(n - 1), patience=60 + 30 * n) == 0
    worked(double.delay(n), 2 * n)
print(forked(lambda: generation(3), patience=170))
worked(double.delay(7), 14)
"""
)


def test_children_have_children(cloud: Cloud) -> None:
    assert cloud.run(GENERATIONS) == ["0"]


BEFORE_USE = """
def child():
    app.backend.driver.create_store()
    worked(double.delay(3), 6)
print([forked(child) for _ in range(2)])
child()
print(forked(child))
"""


def test_a_child_is_the_first_to_use_a_service(cloud: Cloud) -> None:
    assert cloud.run(BEFORE_USE) == ["[0, 0]", "0"]


IN_FIRST_USE = """
first = threading.Thread(target=double.delay, args=[1])
first.start()
time.sleep(WAIT)
print(forked(lambda: double.delay(3)))
first.join(60)
print(first.is_alive())
double.delay(3)
"""


@pytest.mark.parametrize("wait", ["0.02", "0.15", "0.4", "0.8"])
def test_a_child_is_made_while_a_thread_opens_the_connection(cloud: Cloud, wait: str) -> None:
    assert cloud.run(IN_FIRST_USE.replace("WAIT", wait)) == ["0", "False"]


POOL = (
    PREPARED
    + """
import multiprocessing
def work(n):
    assert app.AsyncResult(first.id).get(timeout=10) == 2
    return double.delay(n).id
with multiprocessing.get_context("fork").Pool(3) as pool:
    ids = pool.map_async(work, range(12)).get(60)
for n, id in enumerate(ids): worked(app.AsyncResult(id), 2 * n)
print("done")
"""
)


def test_processes_of_a_pool_send_and_read(cloud: Cloud) -> None:
    assert cloud.run(POOL) == ["done"]


ENDS = (
    PREPARED
    + """
go = True
def receive():
    while go: drain(app)
receiver = threading.Thread(target=receive)
receiver.start()
print([forked(lambda: None, by=sys.exit, patience=10) for _ in range(5)])
print([forked(lambda: double.delay(2), by=sys.exit, patience=15) for _ in range(3)])
go = False
receiver.join(60)
worked(double.delay(7), 14)
"""
)


def test_a_child_ends_as_programs_do(cloud: Cloud) -> None:
    # The end of the interpreter takes the parent's connections apart, where `os._exit` does not.
    program = ENDS.replace("by=sys.exit", "by=leave").replace(
        "go = True\n", "go = True\ndef leave(status): raise SystemExit(status)\n", 1
    )
    assert cloud.run(program) == ["[0, 0, 0, 0, 0]", "[0, 0, 0]"]


OTHERS = """
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
import grpc
go = True
host = sys.argv[1].partition("emulator=")[2]
theirs = PublisherClient(
    transport=PublisherGrpcTransport(channel=grpc.insecure_channel(host)))
def keep():
    while go: theirs.list_topics(project="projects/cloudq-local", timeout=30)
threads = [threading.Thread(target=keep) for _ in range(3)]
for thread in threads: thread.start()
theirs.list_topics(project="projects/cloudq-local", timeout=30)
def child():
    double.delay(2)
    from cloudq_gcp.client import GRPC
    assert GRPC.is_lost
print({forked(child) for _ in range(15)})
go = False
for thread in threads: thread.join(30)
print("cloudq_gcp.client" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads of gRPC are not seen")
def test_a_program_that_uses_grpc_itself_has_children(google: Cloud) -> None:
    # Else gRPC's own handlers start its threads anew, and some of such children abort.
    assert google.run(OTHERS, GRPC_ENABLE_FORK_SUPPORT="0") == ["{0}", "False"]
