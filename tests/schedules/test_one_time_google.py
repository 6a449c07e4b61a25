"""Calls for far times on Pub/Sub: in Cloud Tasks, 28 days at a time, and revocable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("google.cloud.tasks_v2")

from cloudq import CloudQ
from cloudq.driver import Outgoing, Scheduling
from cloudq.results.record import State
from cloudq.runtime import Services
from cloudq.testing import drain
from localstack.servers import Endpoint
from tests.adapters.gcp.cloud_tasks_server import CloudTasksServer, serving_tasks
from tests.servers import unique

DAY = 86_400.0


class Shop:
    def __init__(self, pubsub: Endpoint, server: CloudTasksServer) -> None:
        self.server = server
        self.queue = unique("far")
        self.ahead = 0.0
        self.app = CloudQ(
            unique("shop"),
            broker=f"pubsub://cloudq-tests?emulator=127.0.0.1:{pubsub.port}"
            f"&tasks=europe-west1/cloudq&tasks_endpoint=127.0.0.1:{server.port}",
            backend=f"memory://{unique()}",
            task_default_queue=self.queue,
        )
        self.app.runtime.services = Services(clock=lambda: time.time() + self.ahead)
        self.app.broker.admin.create(self.queue, lease=30, max_deliveries=5)
        self.ran: list[str] = []

        @self.app.task(name="note")
        def note(tag: str = "") -> None:
            self.ran.append(tag)

        self.note = note

    def days(self) -> list[float]:
        """When the tasks of Cloud Tasks are due, in days from now."""
        times: list[Any] = [task.schedule_time for task in self.server.tasks.values()]
        return [round((each.timestamp() - time.time()) / DAY, 2) for each in times]

    def pass_on(self) -> None:
        """Have what waits arrive now, as Cloud Tasks would at its time."""
        driver: Any = self.app.broker.driver
        assert isinstance(driver, Scheduling)
        for each in driver.scheduled(self.queue, count=10):
            assert not driver.unschedule(self.queue, [each.handle])
            assert not driver.send(self.queue, [Outgoing(id=unique(), body=each.body)])


@pytest.fixture
def shop(pubsub: Endpoint) -> Iterator[Shop]:
    with serving_tasks({"https://pubsub.googleapis.com": pubsub.url}) as server:
        shop = Shop(pubsub, server)
        yield shop
        shop.app.broker.admin.delete(shop.queue)
        shop.app.close()


def test_a_call_over_the_services_thirty_days_goes_on_after_each_month(shop: Shop) -> None:
    result = shop.note.apply_async(("x",), countdown=60 * DAY)
    for passed, waits in ((0, 28), (28, 28), (56, 4)):
        shop.ahead = passed * DAY
        drain(shop.app, [shop.queue])
        assert shop.days() == [waits], f"after {passed} days"
        shop.pass_on()
    shop.ahead = 60 * DAY
    drain(shop.app, [shop.queue])
    assert (shop.ran, shop.days()) == (["x"], [])
    assert result.state == State.SUCCESS


def test_revoking_deletes_the_task(shop: Shop) -> None:
    result = shop.note.apply_async(countdown=60 * DAY)
    kept = shop.note.apply_async(countdown=3 * DAY)
    assert result.revoke()
    assert shop.days() == [3]
    assert (result.state, kept.state) == (State.REVOKED, State.PENDING)


def test_one_that_has_gone_on_is_dropped_at_its_next_month(shop: Shop) -> None:
    result = shop.note.apply_async(countdown=60 * DAY)
    shop.ahead = 28 * DAY
    shop.pass_on()
    drain(shop.app, [shop.queue])
    assert shop.days() == [28]
    assert result.revoke()
    shop.ahead = 56 * DAY
    shop.pass_on()
    drain(shop.app, [shop.queue])
    assert (shop.ran, shop.days(), result.state) == ([], [], State.REVOKED)
