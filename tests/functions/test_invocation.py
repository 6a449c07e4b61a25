"""The parts that all function platforms share: the deadline, messages leased by it, firings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudq import CloudQ, ConfigurationError, Task, chord
from cloudq.driver import Delivery
from cloudq.driver.blobs import Blobs
from cloudq.driver.log import Log
from cloudq.errors import Ignore, Reject
from cloudq.execution.deadline import Deadline
from cloudq.execution.direct_call import firing_id, once
from cloudq.execution.invocation import Invocation, NotSettled
from cloudq.execution.settlement import Action
from cloudq.results.record import State
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE

log = Log("cloudq.functions")


def invocation(app: CloudQ, seconds: float = 60.0, reserve: float = 0.0) -> Invocation:
    return Invocation(
        app.executor(stop_at_hard_limit=True),
        deadline=Deadline.after(seconds, reserve=reserve),
        log=log,
    )


def handed_out(app: CloudQ, count: int = 1) -> list[Delivery]:
    """Messages that a platform has leased: they are off the queue, and their leases are its own."""
    taken: list[Delivery] = []
    while len(taken) < count:
        queue = app.conf.task_default_queue
        batch = app.broker.receive(queue, count=count - len(taken), wait=5, lease=60)
        assert batch, f"{len(taken)} of {count} messages are there"
        taken += batch
        app.broker.ack(batch)
    return [
        Delivery(queue=d.queue, id=d.id, body=d.body, receipt=None, attempts=1, lease=60)
        for d in taken
    ]


def again(delivery: Delivery) -> Delivery:
    return Delivery(
        queue=delivery.queue,
        id=delivery.id,
        body=delivery.body,
        receipt=None,
        attempts=delivery.attempts + 1,
        lease=60,
    )


def test_what_is_done_with_need_not_come_back(app: CloudQ) -> None:
    @app.task
    def double(x: int) -> int:
        return 2 * x

    @app.task(max_retries=0)
    def broken() -> None:
        raise ValueError("no")

    @app.task
    def ignored() -> None:
        raise Ignore

    done, failed = double.delay(4), broken.delay()
    ignored.delay()
    assert invocation(app).run(handed_out(app, 3)) == []
    assert done.get(timeout=1) == 8
    assert failed.state is State.FAILURE


def test_a_retry_is_a_copy_on_the_queue(app: CloudQ) -> None:
    @app.task(bind=True, max_retries=2)
    def shaky(self) -> int:  # type: ignore[no-untyped-def]
        if self.request.retries < 2:
            raise self.retry()
        return self.request.retries

    result = shaky.delay()
    for _ in range(3):
        assert invocation(app).run(handed_out(app)) == []
    assert result.get(timeout=1) == 2


def test_what_is_put_back_stays_with_its_reason(
    app: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def busy(x: int) -> int:
        if x == 1:
            raise Reject("busy", requeue=True)
        return x

    results = [busy.delay(x) for x in range(3)]
    with caplog.at_level(logging.WARNING):
        kept = invocation(app).run(handed_out(app, 3))
    assert [(s.action, s.reason) for _, s in kept] == [(Action.RELEASE, "busy")]
    assert [results[0].get(timeout=1), results[2].get(timeout=1)] == [0, 2]
    assert "stays in orders: busy" in caplog.text


def test_what_is_stored_nowhere_stays(make_app: Callable[..., CloudQ], app: CloudQ) -> None:
    ran: list[int] = []
    down = make_app(backend="dynamodb://cloudq?endpoint_url=http://127.0.0.1:1")
    for each in (app, down):
        each.task(name="work")(lambda: ran.append(1))
    app.send_task("work")
    kept = invocation(down).run(handed_out(app))
    assert [s.action for _, s in kept] == [Action.RELEASE]
    assert ran == []


def test_what_can_be_buried_nowhere_stays(app: CloudQ) -> None:
    poison = Delivery(queue="orders", id="1", body=b"{no", receipt=None, attempts=1, lease=60)
    kept = invocation(app).run([poison])
    assert "cannot dead-letter what it has not received itself (undecodable" in kept[0][1].reason


def test_no_task_is_started_without_the_time_it_needs(app: CloudQ) -> None:
    ran: list[str] = []

    @app.task(time_limit=100)
    def long() -> None:
        ran.append("long")

    @app.task
    def quick() -> None:
        ran.append("quick")

    quick.delay()
    long.delay()
    running = invocation(app, 4.0, reserve=0.2)
    deliveries = handed_out(app, 2)
    eventually(lambda: running.deadline.remaining() < 1.9)
    kept = running.run(deliveries)
    assert ran == ["quick"]
    assert [(d.id, s.reason) for d, s in kept] == [
        (deliveries[1].id, "no time left in this invocation")
    ]


def test_a_task_at_the_end_of_the_time_is_interrupted_and_stays(app: CloudQ) -> None:
    @app.task
    def slow() -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(0.01)

    result = slow.delay()
    started = time.monotonic()
    kept = invocation(app, 1.0).run(handed_out(app))
    assert time.monotonic() - started < PATIENCE, "left to itself it takes as long"
    assert "interrupted" in kept[0][1].reason
    assert result.state is State.PENDING


# ---- copies of what must come back


def test_what_stays_comes_back_as_a_copy_that_counts(app: CloudQ) -> None:
    attempts: list[int] = []

    @app.task(bind=True)
    def third_time(self) -> dict[str, str]:  # type: ignore[no-untyped-def]
        attempts.append(self.request.attempts)
        if len(attempts) < 3:
            raise Reject("not yet", requeue=True)
        return dict(self.request.headers)

    result = third_time.apply_async(headers={"own": "kept"})
    for _ in range(2):
        running = invocation(app)
        running.resend(running.run(handed_out(app)))
        assert app.broker.admin.stats("orders").delayed == 1, "put back for a second"
    assert invocation(app).run(handed_out(app)) == []
    assert attempts == [1, 2, 3]
    assert result.get(timeout=1) == {"own": "kept"}


@pytest.mark.slow
def test_a_message_that_never_ends_is_lost_after_so_many_copies(
    make_app: Callable[..., CloudQ],
) -> None:
    app = make_app(max_deliveries=3)
    ran: list[int] = []

    @app.task
    def never() -> None:
        ran.append(1)
        raise Reject("no", requeue=True)

    result = never.delay()
    for _ in range(4):
        running = invocation(app)
        kept = running.run(handed_out(app))
        if "WorkerLost" in kept[0][1].reason:
            break
        running.resend(kept)
    assert len(ran) == 3
    assert result.state is State.FAILURE


def test_a_message_that_belongs_to_someone_else_is_not_copied(app: CloudQ) -> None:
    ran: list[int] = []

    @app.task
    def once_only() -> None:
        ran.append(1)

    once_only.delay()
    first = handed_out(app)[0]
    later = again(again(first))
    assert app.backend is not None
    opened, _ = app.executor().open([later])
    assert opened[0].fenced
    running = invocation(app)
    kept = running.run([again(first)])
    assert [s.action for _, s in kept] == [Action.NOTHING]
    running.resend(kept)
    assert app.broker.admin.stats("orders").ready == 0
    assert ran == []


def test_what_cannot_be_copied_says_so(app: CloudQ) -> None:
    running = invocation(app)
    poison = Delivery(queue="orders", id="1", body=b"{no", receipt=None, attempts=1, lease=60)
    with pytest.raises(NotSettled, match=r"cannot be copied.*undecodable"):
        running.resend(running.run([poison]))


# ---- firings


def test_a_firing_is_done_once(app: CloudQ) -> None:
    assert app.backend is not None
    assert once(app.backend, "nightly@1", "first", 60, lambda: "done") == "done"
    assert once(app.backend, "nightly@1", "second", 60, lambda: "again") is None
    assert once(app.backend, "nightly@1", "first", 60, lambda: "again") is None
    assert once(app.backend, "nightly@2", "third", 60, lambda: "done") == "done"
    assert firing_id("nightly@1") == firing_id("nightly@1") != firing_id("nightly@2")


def test_a_firing_that_failed_is_left_to_its_repetition_and_later_to_others(app: CloudQ) -> None:
    backend = app.backend
    assert backend is not None

    def fail() -> str:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        once(backend, "nightly", "first", 0.5, fail)
    assert once(backend, "nightly", "second", 0.5, lambda: "mine") is None
    with pytest.raises(OSError, match="no"):
        once(backend, "nightly", "first", 0.5, fail)
    assert eventually(lambda: once(backend, "nightly", "second", 60, lambda: "mine")) == "mine"


def test_a_chord_is_joined_and_a_batch_that_is_handed_out_twice_counts_once(app: CloudQ) -> None:
    bodies: list[list[int]] = []

    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="total")
    def total(values: list[int]) -> int:
        bodies.append(values)
        return sum(values)

    result = chord([double.s(n) for n in range(3)], total.s()).delay()
    members = handed_out(app, 3)
    assert invocation(app).run(members) == []
    assert invocation(app).run([again(member) for member in members]) == []
    assert invocation(app).run(handed_out(app)) == []
    assert result.get(timeout=PATIENCE) == 6
    assert bodies == [[0, 2, 4]]


def test_the_calls_of_a_bundle_run_in_one_invocation(app: CloudQ) -> None:
    @app.task(bind=True, max_retries=1, autoretry_for=(OSError,))
    def mixed(self: Task[..., int], x: int) -> int:
        if x == 1:
            raise ValueError("no")
        if x == 2 and not self.request.retries:
            raise OSError("not yet")
        return x

    results = app.publish([mixed.prepare(x) for x in range(5)], bundle=5)
    assert invocation(app).run(handed_out(app)) == []
    assert invocation(app).run(handed_out(app)) == [], "the retry, by itself"
    states = [result.state for result in results]
    assert states == [State.SUCCESS, State.FAILURE, *[State.SUCCESS] * 3]


def test_what_is_put_back_of_a_bundle_is_a_smaller_one(app: CloudQ) -> None:
    busy = {1, 3}

    @app.task
    def work(x: int) -> int:
        if x in busy:
            raise Reject("busy", requeue=True)
        return x

    results = app.publish([work.prepare(x) for x in range(5)], bundle=5)
    assert invocation(app).run(handed_out(app)) == []
    busy.clear()
    for _ in range(2):
        eventually(lambda: app.broker.admin.stats("orders").ready)
        assert invocation(app).run(handed_out(app)) == []
    assert [result.get(timeout=1) for result in results] == [0, 1, 2, 3, 4]


def test_no_time_is_left_for_the_rest_of_a_bundle(app: CloudQ) -> None:
    ran: list[int] = []

    @app.task(time_limit=5000)
    def work(x: int) -> int:
        ran.append(x)
        return x

    results = app.publish([work.prepare(x) for x in range(6)], bundle=6)
    executor = app.executor(stop_at_hard_limit=True)
    for ended in (3, 6):
        start = len(ran)
        deadline = Deadline(lambda start=start: 1000 - 200 * (len(ran) - start), reserve=0)
        assert Invocation(executor, deadline=deadline, log=log).run(handed_out(app)) == []
        assert ran == list(range(ended))
    assert [result.get(timeout=1) for result in results] == [0, 1, 2, 3, 4, 5]


def test_an_ordered_bundle_stays_from_its_retry_on(make_app: Callable[..., CloudQ]) -> None:
    app = make_app(task_default_queue="orders.fifo")
    ran: list[int] = []

    @app.task(bind=True, max_retries=2, autoretry_for=(OSError,))
    def step(self: Task[..., int], x: int) -> int:
        ran.append(x)
        if x == 2 and not self.request.retries:
            raise OSError("not yet")
        return x

    results = app.publish([step.options(group_key="a").prepare(x) for x in range(5)], bundle=5)
    [message] = handed_out(app)
    message = replace(message, group="a")
    kept = invocation(app).run([message])
    assert [settlement.action for _, settlement in kept] == [Action.RELEASE]
    assert ran == [0, 1, 2]
    assert invocation(app).run([replace(again(message), group="a")]) == []
    assert ran == [0, 1, 2, 2, 3, 4]
    assert [result.get(timeout=1) for result in results] == [0, 1, 2, 3, 4]


@pytest.fixture
def shops(make_app: Callable[..., CloudQ], tmp_path: Path) -> tuple[CloudQ, CloudQ]:
    """An app that sends large arguments, and one that has no credentials for their store."""
    store = {"payload_store": f"file://{tmp_path}/payloads", "payload_store_over": 2000}
    sender, reader = make_app(**store), make_app(**store)

    def no_credentials(url: str) -> Blobs:
        raise ConfigurationError("no credentials")

    reader.runtime.services = replace(reader.runtime.services, open_blobs=no_credentials)
    reader.task(name="size", max_retries=0)(len)
    return sender, reader


def test_a_large_argument_waits_while_its_store_cannot_be_opened(
    shops: tuple[CloudQ, CloudQ],
) -> None:
    sender, reader = shops
    result = sender.send_task("size", ["x" * 5000])
    assert not invocation(reader).run(handed_out(sender))
    assert result.state is State.PENDING
    reader.runtime.services = sender.runtime.services
    assert not invocation(reader).run(handed_out(sender))
    assert result.get(timeout=PATIENCE) == 5000


def test_payloads_of_a_store_that_cannot_be_opened_are_left(shops: tuple[CloudQ, CloudQ]) -> None:
    sender, reader = shops
    result = sender.send_task("size", ["x" * 5000])
    result.revoke()
    assert not invocation(reader).run(handed_out(sender))
    assert result.state is State.REVOKED
