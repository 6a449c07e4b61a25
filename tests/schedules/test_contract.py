"""The contract of schedulers' drivers: EventBridge on a real server, Cloud Scheduler's stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("google.cloud.scheduler_v1")

from cloudq import CloudQ
from cloudq.driver import OneTimeEntry
from cloudq.driver.loader import parse
from cloudq.testing import OneTimeContract, OneTimeDriver, ScheduleContract
from cloudq_aws.eventbridge import EventBridge
from cloudq_aws.eventbridge import open_scheduler as open_eventbridge
from cloudq_gcp.cloud_scheduler import CloudScheduler
from cloudq_gcp.cloud_scheduler import open_scheduler as open_cloud_scheduler
from localstack.servers import Endpoint
from tests.schedules.cloud_scheduler_server import serving_scheduler
from tests.servers import unique

ROLE = "arn:aws:iam::000000000000:role/scheduler"
AWAY = "http://127.0.0.1:1"


def with_note(broker: str, queue: str) -> CloudQ:
    app = CloudQ(unique("shop"), broker=broker, backend="memory://x", task_default_queue=queue)

    @app.task(name="note")
    def note(tag: str = "") -> str:
        return tag

    assert note.name in app.tasks
    return app


@pytest.fixture(scope="module")
def eventbridge(aws: Endpoint) -> Iterator[EventBridge]:
    driver = open_eventbridge(parse(f"eventbridge://us-east-1?role={ROLE}&endpoint_url={aws.url}"))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def sqs_queue(aws: Endpoint) -> str:
    name = unique("sched")
    with CloudQ(broker=f"sqs://?endpoint_url={aws.url}", backend="none") as app:
        app.broker.admin.create(name, lease=30, max_deliveries=30)
    return name


class OnEventBridge:
    @pytest.fixture
    def driver(self, eventbridge: EventBridge) -> EventBridge:
        return eventbridge

    @pytest.fixture
    def queue(self, sqs_queue: str) -> str:
        return sqs_queue


class TestEventBridge(OnEventBridge, ScheduleContract):
    @pytest.fixture
    def away(self) -> Iterator[EventBridge]:
        driver = open_eventbridge(parse(f"eventbridge://us-east-1?role={ROLE}&endpoint_url={AWAY}"))
        yield driver
        driver.close()

    @pytest.fixture
    def app(self, aws: Endpoint, queue: str) -> Iterator[CloudQ]:
        with with_note(f"sqs://?endpoint_url={aws.url}", queue) as app:
            yield app


class TestEventBridgeOnce(OnEventBridge, OneTimeContract):
    def entries(self, driver: OneTimeDriver, group: str) -> list[str]:
        assert isinstance(driver, EventBridge)
        there = driver.client.list_schedules(GroupName=group)["Schedules"]
        return sorted(each.get("Name", "") for each in there)

    def test_a_fifo_queue_gets_it_with_a_group(
        self, driver: EventBridge, group: str, entry: OneTimeEntry, aws: Endpoint
    ) -> None:
        name = unique("sched") + ".fifo"
        with CloudQ(broker=f"sqs://?endpoint_url={aws.url}", backend="none") as app:
            app.broker.admin.create(name, lease=30, max_deliveries=30)
        plain, keyed = replace(entry, queue=name), replace(entry, queue=name, name="k.1")
        driver.once(group, plain)
        driver.once(group, replace(keyed, group="customers"))
        targets = [
            driver.client.get_schedule(GroupName=group, Name=each)["Target"]
            for each in (plain.name, keyed.name)
        ]
        assert [target.get("SqsParameters") for target in targets] == [
            {"MessageGroupId": plain.name},
            {"MessageGroupId": "customers"},
        ]


class TestCloudScheduler(ScheduleContract):
    @pytest.fixture
    def driver(self) -> Iterator[CloudScheduler]:
        with serving_scheduler() as server:
            emulator = f"emulator=127.0.0.1:{server.port}"
            driver = open_cloud_scheduler(
                parse(f"cloudscheduler://my-project/europe-west1?{emulator}")
            )
            yield driver
            driver.close()

    @pytest.fixture
    def away(self) -> Iterator[CloudScheduler]:
        driver = open_cloud_scheduler(
            parse("cloudscheduler://my-project/europe-west1?emulator=127.0.0.1:1")
        )
        yield driver
        driver.close()

    @pytest.fixture
    def queue(self) -> str:
        return "orders"

    @pytest.fixture
    def app(self, queue: str) -> Iterator[CloudQ]:
        with with_note("memory://google", queue) as app:
            yield app
