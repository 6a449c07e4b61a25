"""Cloud Scheduler, through Google's own client against a stand-in of the service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("google.cloud.scheduler_v1")

from cloudq import CloudQ, ConfigurationError, at, crontab, every
from cloudq.driver import Delivery
from cloudq.driver.loader import parse
from cloudq.schedules.cloud_sync import Plan, Scheduler
from cloudq_gcp.cloud_scheduler import CloudScheduler, open_scheduler
from tests.schedules.cloud_scheduler_server import CloudSchedulerServer, serving_scheduler

# Later than now, since the store forgets what has expired.
MONDAY = datetime(2100, 3, 1, 7, 30, 2, tzinfo=UTC).timestamp()


class Shop:
    def __init__(self, server: CloudSchedulerServer) -> None:
        self.server = server
        self.app = CloudQ("shop", broker="memory://google", task_default_queue="orders")
        self.driver: CloudScheduler = open_scheduler(
            parse(f"cloudscheduler://my-project/europe-west1?emulator=127.0.0.1:{server.port}")
        )
        self.cloud = Scheduler(self.app.schedules, self.driver, url="cloudscheduler://my-project")
        self.ran: list[str] = []

        @self.app.task(name="note", bind=True)
        def note(self_: Any) -> None:
            self.ran.append(self_.request.headers["cloudq-slot"])

        self.note = note

    def declare(self, when: object, name: str, **more: Any) -> None:
        self.app.periodic(when, name=name, **more)(self.note)

    def apply(self) -> list[tuple[str, str]]:
        plan = self.cloud.plan()
        self.cloud.apply(plan)
        assert self.cloud.plan().steps == []
        return shown(plan)

    def job(self, name: str) -> Any:
        return self.server.jobs[f"projects/my-project/locations/europe-west1/jobs/{name}"]

    def deliver(self, name: str, published: float) -> str:
        """Run what the service published at this time, as a worker does; what became of it."""
        body = self.job(name).pubsub_target.data
        delivery = Delivery(
            queue="orders", id=str(published), body=body, receipt=None, attempts=1, lease=60.0,
            sent_at=published,
        )  # fmt: skip
        executor = self.app.executor()
        jobs, settled = executor.open([delivery])
        outcomes = [executor.run(job) for job in jobs] + [settlement for _, settlement in settled]
        if outcomes[0].record is not None and self.app.backend is not None:
            self.app.backend.store([outcomes[0].record])
        return outcomes[0].reason or "ran"


@pytest.fixture
def shop() -> Iterator[Shop]:
    with serving_scheduler() as server:
        shop = Shop(server)
        yield shop
        shop.driver.close()
        shop.app.close()


def shown(plan: Plan) -> list[tuple[str, str]]:
    return [(step.action, step.name) for step in plan.steps]


def test_the_cloud_is_made_equal_to_the_code(shop: Shop) -> None:
    shop.declare(crontab("30 7 * * 1-5"), "a.morning", timezone="Europe/Vienna")
    shop.declare(every(900), "b", timezone="Europe/Vienna")
    shop.declare(crontab("0 0 13 * 5"), "c", enabled=False)
    assert shop.apply() == [
        ("create", "cloudq-shop-a_morning"),
        ("create", "cloudq-shop-b"),
        ("create", "cloudq-shop-c"),
    ]
    made = shop.job("cloudq-shop-a_morning")
    assert (made.schedule, made.time_zone) == ("30 7 * * 1-5", "Europe/Vienna")
    assert made.pubsub_target.topic_name == "projects/my-project/topics/orders"
    assert (shop.job("cloudq-shop-b").schedule, shop.job("cloudq-shop-b").time_zone) == (
        "*/15 * * * *",
        "UTC",
    )
    assert shop.job("cloudq-shop-c").state.name == "PAUSED"
    shop.app.schedules._declared.clear()
    shop.declare(crontab("30 8 * * 1-5"), "a.morning", timezone="Europe/Vienna")
    shop.declare(crontab("0 0 13 * 5"), "c")
    assert shop.apply() == [
        ("update", "cloudq-shop-a_morning"),
        ("update", "cloudq-shop-c"),
        ("delete", "cloudq-shop-b"),
    ]
    assert shop.job("cloudq-shop-c").state.name == "ENABLED"


def test_a_run_is_known_by_when_it_was_published(shop: Shop) -> None:
    shop.declare(crontab("30 7 * * 1"), "weekly", expires=3600)
    shop.apply()
    shop.app.runtime.services = type(shop.app.runtime.services)(clock=lambda: MONDAY + 60)
    assert shop.deliver("cloudq-shop-weekly", MONDAY) == "ran"
    # Published again by a retry, minutes later: the same run.
    assert shop.deliver("cloudq-shop-weekly", MONDAY + 200) == "already done"
    assert shop.ran == ["2100-03-01T07:30:00Z"]
    # A week later, two hours after its time.
    shop.app.runtime.services = type(shop.app.runtime.services)(
        clock=lambda: MONDAY + 7 * 86_400 + 7200
    )
    assert shop.deliver("cloudq-shop-weekly", MONDAY + 7 * 86_400) == "expired"


@pytest.mark.parametrize(
    ("second", "slot"), [(0, "07:30:00"), (54, "07:30:00"), (56, "07:31:00"), (-4, "07:30:00")]
)
def test_a_minute_is_told_from_the_next(shop: Shop, second: int, slot: str) -> None:
    shop.declare(crontab("* * * * *"), "minutely")
    shop.apply()
    shop.deliver("cloudq-shop-minutely", MONDAY - 2 + second)
    assert shop.ran == [f"2100-03-01T{slot}Z"]


@pytest.mark.parametrize(
    ("when", "more", "message"),
    [
        (at(datetime(2100, 1, 1, tzinfo=UTC)), {}, "knows crontabs only: run a beat"),
        (every(45), {}, "divide an hour or a day"),
        (every(60), {"jitter": 5}, "cannot spread runs"),
        (every(60), {"end": datetime(2100, 1, 1, tzinfo=UTC)}, "no start or end"),
        (crontab(0, 0, day_of_week=5, day_of_month=13), {}, "either is enough"),
    ],
)
def test_what_it_cannot_do_is_refused(
    shop: Shop, when: object, more: dict[str, Any], message: str
) -> None:
    shop.declare(when, "x", **more)
    with pytest.raises(ConfigurationError, match=message):
        shop.cloud.plan()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("cloudscheduler://my-project?emulator=x:1", "names no location"),
        ("cloudscheduler://my-project/europe-west1?emulator=x:1&retries=9", "retries=9"),
        ("cloudscheduler://my-project/europe-west1?emulator=x:1&x=9", "no option 'x'"),
    ],
)
def test_urls_that_cannot_be(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_scheduler(parse(url))
