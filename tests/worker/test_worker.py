"""A worker amid deaths and outages, and its order, weights and settings."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from cloudq import CloudQ, State, TaskFailure, WorkerLost, wait_for
from cloudq.driver import Outgoing
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.worker.harness import Place, until


def test_a_killed_child_is_replaced_and_its_work_comes_back(place: Place) -> None:
    worker = place.start("--processes", "1", "--threads", "2", "--lease", "2")
    nap = place.app.send_task("drill_tasks.hold", ["nap"])
    until(lambda: "start nap" in place.entries(), what="the nap starts")
    worker.children()[0].kill()
    place.let_go()
    assert nap.get(timeout=PATIENCE) == "nap"
    assert place.counts() == {"start nap": 2, "end nap": 1}


def test_a_task_that_kills_its_process_ends_as_worker_lost_in_the_dead_letters(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", "3")
    sqlite_place.start("--processes", "1", "--threads", "1", "--lease", "2")
    result = sqlite_place.app.send_task("drill_tasks.die", ["poison"])
    error = result.get(timeout=PATIENCE, propagate=False)
    assert isinstance(error, WorkerLost)
    assert result.state is State.FAILURE
    assert sqlite_place.counts() == {"die poison": 3}
    admin = sqlite_place.app.broker.admin
    until(lambda: admin.peek_dead("default", count=5), what="the dead letter")
    [dead] = admin.peek_dead("default", count=5)
    assert dead.reason is not None
    assert dead.reason.startswith("WorkerLost: delivered 4 times")
    # The worker went on.
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)


def test_what_cannot_be_run_is_dead_lettered_with_its_reason_and_the_worker_goes_on(
    place: Place,
) -> None:
    deep = (
        b'{"v":1,"id":"deep","task":"drill_tasks.pid","args":[' + b"[" * 5000 + b"]" * 5000 + b"]}"
    )
    bodies = {
        "not-json": b"\xc3\xa9t\xc3\xa9 {",
        "foreign": b'{"hello": "world"}',
        "newer": b'{"v":7,"id":"x","task":"drill_tasks.pid"}',
        "unknown": b'{"v":1,"id":"u","task":"drill_tasks.gone"}',
        "deep": deep,
        "array": b"[1,2,3]",
    }
    driver = place.app.broker.driver
    assert not driver.send(place.queue, [Outgoing(id=k, body=v) for k, v in bodies.items()])
    worker = place.start("--processes", "1", "--threads", "2")
    admin = place.app.broker.admin
    until(
        lambda: len(admin.peek_dead(place.queue, count=10)) == len(bodies),
        what="all are dead letters",
    )
    reasons = {dead.body: dead.reason or "" for dead in admin.peek_dead(place.queue, count=10)}
    assert reasons[bodies["not-json"]].startswith("undecodable")
    assert reasons[bodies["foreign"]].startswith("foreign message")
    assert reasons[bodies["newer"]].startswith("unknown version 7")
    assert reasons[bodies["unknown"]].startswith("unknown task 'drill_tasks.gone'")
    assert "deep" in reasons[deep] or "recursion" in reasons[deep]
    assert reasons[bodies["array"]].startswith("foreign message")
    assert place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log()


def test_retries_go_through_the_broker_until_one_succeeds(place: Place) -> None:
    place.start("--processes", "2", "--threads", "4")
    results = [place.app.send_task("drill_tasks.flaky", [n, n % 3]) for n in range(9)]
    wait_for(results, timeout=PATIENCE)
    assert [result.get() for result in results] == [n % 3 for n in range(9)]
    assert place.counts() == {str(n): n % 3 + 1 for n in range(9)}


def test_children_are_replaced_after_as_many_tasks_as_asked(sqlite_place: Place) -> None:
    sqlite_place.start("--processes", "1", "--threads", "2", "--max-tasks-per-child", "5")
    results = [sqlite_place.app.send_task("drill_tasks.pid") for _ in range(20)]
    wait_for(results, timeout=PATIENCE)
    pids = [result.get() for result in results]
    assert len(set(pids)) >= 4
    assert max(pids.count(pid) for pid in set(pids)) <= 5


def test_an_ordered_group_runs_in_order_also_through_retries(aws: Endpoint, place: Place) -> None:
    queue = f"{place.queue}.fifo"
    place.app.broker.admin.create(queue, lease=5, max_deliveries=30)
    place.start("--processes", "2", "--threads", "4", "--lease", "5", queues=queue)
    results = [
        place.app.send_task(
            "drill_tasks.flaky",
            [n, 1 if n in (3, 7) else 0],
            queue=queue,
            group_key="a" if n < 10 else "b",
        )
        for n in range(20)
    ]
    wait_for(results, timeout=PATIENCE)
    entries = [int(entry) for entry in place.entries()]
    first = [n for n in entries if n < 10]
    assert first == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9]
    assert [n for n in entries if n >= 10] == list(range(10, 20))


def test_queues_share_the_slots_by_weight(sqlite_place: Place) -> None:
    for n in range(400):
        queue = "low" if n < 200 else "high"
        sqlite_place.app.send_task("drill_tasks.work", [n, 0.002], queue=queue)
    sqlite_place.start("--processes", "1", "--threads", "2", queues="low:1,high:4")
    until(lambda: len(sqlite_place.entries()) >= 150, what="150 tasks done")
    done = [int(entry) for entry in sqlite_place.entries()[:150]]
    high = sum(n >= 200 for n in done)
    assert 100 <= high <= 140  # 4 of 5 would be 120


def test_an_idle_queue_keeps_no_other_from_working(sqs_place: Place) -> None:
    idle = f"{sqs_place.queue}-idle"
    sqs_place.app.broker.admin.create(idle, lease=5, max_deliveries=30)
    polls = 20  # seconds: as long as SQS lets one wait
    sqs_place.environment["CLOUDQ_WORKER_POLL_WAIT"] = str(polls)
    sqs_place.start("--processes", "1", "--threads", "1", queues=f"{idle},{sqs_place.queue}")
    start = time.monotonic()
    results = [sqs_place.app.send_task("drill_tasks.pid") for _ in range(20)]
    wait_for(results, timeout=PATIENCE)
    # Each of them behind a poll of the idle queue would take twenty polls.
    assert time.monotonic() - start < 5 * polls


class Proxy:
    """A TCP proxy in front of a service, which can be cut and mended."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._up = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._up = False
        while self._open:
            self._end(self._open.pop())

    def mend(self) -> None:
        self._up = True

    def close(self) -> None:
        self.cut()
        self._end(self._listener)

    @staticmethod
    def _end(end: socket.socket) -> None:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._up:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self._end(sink)


@pytest.fixture
def proxy(aws: Endpoint) -> Iterator[Proxy]:
    proxy = Proxy(aws.url)
    yield proxy
    proxy.close()


def test_while_the_store_is_down_nothing_is_acked_and_then_all_is_recorded(
    sqs_place: Place, proxy: Proxy
) -> None:
    direct = sqs_place.backend
    sqs_place.backend = direct.partition("?")[0] + f"?endpoint_url={proxy.url}"
    worker = sqs_place.start("--processes", "1", "--threads", "4", "--lease", "3")
    first = sqs_place.app.send_task("drill_tasks.nap", ["before", 2.0])
    until(lambda: "start before" in sqs_place.entries(), what="the task starts")
    proxy.cut()
    later = [sqs_place.app.send_task("drill_tasks.work", [n, 0.0]) for n in range(10)]
    until(lambda: "wait" in worker.log(), what=f"the outage is noticed {worker.log()}")
    assert first.state is State.PENDING
    lines = len(worker.log().splitlines())
    time.sleep(4)  # a hot loop would log, and a lost lease would start the task again
    assert len(worker.log().splitlines()) - lines < 40
    assert sqs_place.counts()["start before"] == 1
    proxy.mend()
    records = wait_for([first, *later], timeout=PATIENCE)
    assert {record.state for record in records} == {State.SUCCESS}
    assert sqs_place.counts()["start before"] == 1
    until(lambda: _left(sqs_place) == 0, what="every message is acked")
    assert worker.stop() == 0


def _left(place: Place) -> int:
    stats = place.app.broker.admin.stats(place.queue)
    return (stats.ready or 0) + (stats.leased or 0) + (stats.delayed or 0)


def test_while_the_broker_is_down_the_worker_waits_and_then_goes_on(
    sqs_place: Place, proxy: Proxy
) -> None:
    direct = sqs_place.broker
    sqs_place.broker = f"sqs://?endpoint_url={proxy.url}"
    worker = sqs_place.start("--processes", "1", "--threads", "4", "--lease", "5")
    assert sqs_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    proxy.cut()
    until(lambda: "cannot receive" in worker.log(), what="the outage is noticed")
    result = sqs_place.app.send_task("drill_tasks.pid")
    proxy.mend()
    assert result.get(timeout=PATIENCE)
    assert "Traceback" not in worker.log()
    assert direct != sqs_place.broker


@pytest.mark.parametrize(
    ("broker", "backend", "hint"),
    [
        ("{sqs}", "none", "cloudq queues create"),
        ("sqlite:///{tmp}/x.db", "dynamodb://no-such-table?endpoint_url={url}", "no such table"),
        ("sqss://", "none", "did you mean sqs?"),
    ],
)
def test_a_worker_that_can_never_work_ends_with_2_and_one_line(
    sqs_place: Place, aws: Endpoint, broker: str, backend: str, hint: str
) -> None:
    names = {"sqs": sqs_place.broker, "tmp": str(sqs_place.folder), "url": aws.url}
    sqs_place.broker = broker.format(**names)
    sqs_place.backend = backend.format(**names)
    worker = sqs_place.start(ready=False, queues="no-such-queue")
    assert worker.process.wait(PATIENCE) == 2
    assert hint in worker.log().splitlines()[-1]
    assert "Traceback" not in worker.log()


def test_an_exception_of_a_class_unknown_here_is_a_task_failure(sqlite_place: Place) -> None:
    sqlite_place.start("--processes", "1")
    with CloudQ(broker=sqlite_place.broker) as stranger:
        error = stranger.send_task("drill_tasks.work", ["x", "no number"]).get(20, propagate=False)
    assert isinstance(error, TaskFailure | TypeError)
