"""EventBridge Scheduler on a real server: made equal to the code, and what it sends runs once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, ServiceError, at, crontab, every
from cloudq.driver import Address, Outgoing, StoreAdmin
from cloudq.plugins import parse
from cloudq.schedules.cloud import Incomplete, Plan, Scheduler
from cloudq.schedules.slots import CRON
from cloudq.testing import drain, eventually
from cloudq_aws.eventbridge import EventBridge, open_scheduler
from localstack.servers import Endpoint
from tests.servers import unique

ROLE = "arn:aws:iam::000000000000:role/scheduler"
DEAD = "arn:aws:sqs:us-east-1:000000000000:dead"


class Shop:
    """An app on SQS and DynamoDB, and its group in EventBridge Scheduler."""

    def __init__(self, aws: Endpoint) -> None:
        queue, table = unique("sched"), unique("sched")
        self.url = f"eventbridge://us-east-1?role={ROLE}&dead={DEAD}&endpoint_url={aws.url}"
        self.app = CloudQ(
            unique("shop"),
            broker=f"sqs://?endpoint_url={aws.url}",
            backend=f"dynamodb://{table}?endpoint_url={aws.url}",
            task_default_queue=queue,
        )
        self.queue = queue
        self.app.broker.admin.create(queue, lease=30, max_deliveries=30)
        assert self.app.backend is not None
        assert isinstance(self.app.backend.driver, StoreAdmin)
        self.app.backend.driver.create_store()
        self.driver: EventBridge = open_scheduler(parse(self.url))
        self.ran: list[tuple[str, str]] = []

        @self.app.task(name="note", bind=True)
        def note(self_: Any, tag: str = "") -> None:
            self.ran.append((tag, self_.request.headers["cloudq-slot"]))

        self.note = note

    @property
    def cloud(self) -> Scheduler:
        return Scheduler(self.app, self.driver, url="eventbridge://us-east-1")

    def declare(self, when: object, name: str, **more: Any) -> None:
        self.app.periodic(when, name=name, **more)(self.note)

    def anew(self) -> None:
        """Forget what was declared, as another version of the code."""
        del self.app.schedules

    def apply(self) -> Plan:
        plan = self.cloud.plan()
        self.cloud.apply(plan)
        return plan

    def message(self, name: str, group: str | None = None) -> str:
        group = group or self.cloud.group
        return self.driver.client.get_schedule(GroupName=group, Name=name)["Target"]["Input"]

    def fire(self, name: str, slot: str) -> None:
        """Send what the service would: its user guide, "Adding context attributes"."""
        body = self.message(name).replace("<aws.scheduler.scheduled-time>", slot)
        self.app.broker.driver.send(self.queue, [Outgoing(id=unique(), body=body.encode())])


@pytest.fixture
def shop(aws: Endpoint) -> Iterator[Shop]:
    shop = Shop(aws)
    yield shop
    shop.driver.close()
    shop.app.close()


def shown(plan: Plan) -> list[tuple[str, str]]:
    return [(step.action, step.name) for step in plan.steps]


def test_the_cloud_is_made_equal_to_the_code(shop: Shop) -> None:
    shop.declare(crontab("30 7 * * 1-5"), "morning", timezone="Europe/Vienna", jitter=90)
    shop.declare(crontab("0 0 13 * 5"), "unlucky")
    shop.declare(every(300), "often", queue=shop.queue)
    assert shown(shop.apply()) == [
        ("create", "morning"),
        ("create", "often"),
        ("create", "unlucky"),
        ("create", "unlucky-2"),
    ]
    plan = shop.cloud.plan()
    assert plan.steps == []
    assert list(plan.equal) == ["morning", "often", "unlucky", "unlucky-2"]
    made: Any = shop.driver.client.get_schedule(GroupName=shop.cloud.group, Name="morning")
    assert made["ScheduleExpression"] == "cron(30 7 ? * MON-FRI *)"
    assert made["ScheduleExpressionTimezone"] == "Europe/Vienna"
    assert made["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 2}
    target = made["Target"]
    assert (target["RoleArn"], target["DeadLetterConfig"]) == (ROLE, {"Arn": DEAD})
    assert target["Arn"].endswith(f":{shop.queue}")
    assert target["RetryPolicy"] == {
        "MaximumEventAgeInSeconds": 86_400,
        "MaximumRetryAttempts": 185,
    }


def test_what_has_changed_is_shown_and_put_right(shop: Shop) -> None:
    shop.declare(crontab("30 7 * * *"), "morning")
    shop.declare(every(300), "often")
    shop.apply()
    shop.anew()
    shop.declare(crontab("45 7 * * *"), "morning", kwargs={"tag": "late"}, enabled=False)
    shop.declare(every(600), "seldom")
    plan = shop.apply()
    assert shown(plan) == [("update", "morning"), ("create", "seldom"), ("delete", "often")]
    parts = plan.steps[0].parts
    assert parts["expression"] == ("cron(30 7 * * ? *)", "cron(45 7 * * ? *)")
    assert parts["state"] == ("ENABLED", "DISABLED")
    assert set(parts) == {"expression", "state", "message"}
    assert shop.cloud.plan().steps == []
    # Somebody's hand in the console.
    group = shop.cloud.group
    schedule: Any = shop.driver.client.get_schedule(GroupName=group, Name="seldom")
    kept = ("ScheduleExpressionTimezone", "Description", "FlexibleTimeWindow", "Target")
    shop.driver.client.update_schedule(
        GroupName=group,
        Name="seldom",
        ScheduleExpression="rate(1 day)",
        **{name: schedule[name] for name in kept},
    )
    [step] = shop.apply().steps
    assert step.parts == {"expression": ("rate(1 day)", "rate(10 minutes)")}
    assert shop.cloud.plan().steps == []


def test_others_schedules_are_left_alone(shop: Shop) -> None:
    shop.declare(every(300), "often")
    shop.apply()
    shop.driver.client.create_schedule(
        GroupName=shop.cloud.group,
        Name="hand-made",
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": DEAD, "RoleArn": ROLE, "Input": "{}"},
    )
    plan = shop.cloud.plan()
    assert (plan.steps, plan.foreign) == ([], ["hand-made"])
    shop.declare(every(60), "hand-made")
    with pytest.raises(ConfigurationError, match=r"'hand-made'.*not of this app"):
        shop.cloud.plan()


def test_pauses_and_schedules_of_run_time_go_to_the_cloud(shop: Shop) -> None:
    shop.declare(every(300), "often")
    shop.app.schedules.add("dynamic", "note", crontab("0 6 * * *"))
    shop.app.schedules.pause("often")
    assert shown(shop.apply()) == [("create", "dynamic"), ("create", "often")]
    often = shop.driver.client.get_schedule(GroupName=shop.cloud.group, Name="often")
    assert often["State"] == "DISABLED"
    shop.app.schedules.resume("often")
    shop.app.schedules.delete("dynamic")
    assert shown(shop.apply()) == [("update", "often"), ("delete", "dynamic")]


def test_what_is_fired_more_than_once_runs_once(shop: Shop) -> None:
    shop.declare(crontab("30 7 * * *"), "morning", kwargs={"tag": "m"})
    shop.declare(crontab("0 0 13 * 5"), "unlucky")
    shop.apply()
    for _ in range(2):
        shop.fire("morning", "2026-11-21T07:30:00Z")
    shop.fire("morning", "2026-11-22T07:30:00Z")
    # Friday the 13th is in both of its expressions.
    for name in ("unlucky", "unlucky-2"):
        shop.fire(name, "2026-11-13T00:00:00Z")
    drain(shop.app, [shop.queue])
    assert sorted(shop.ran) == [
        ("", "2026-11-13T00:00:00Z"),
        ("m", "2026-11-21T07:30:00Z"),
        ("m", "2026-11-22T07:30:00Z"),
    ]
    result = shop.app.AsyncResult("morning@2026-11-21T07:30:00Z")
    assert result.state == "SUCCESS"


def test_what_comes_too_late_is_dropped(shop: Shop) -> None:
    shop.declare(crontab("* * * * *"), "soon", expires=30)
    shop.apply()
    now = datetime.now(UTC).replace(microsecond=0)
    late = (now - timedelta(seconds=31)).isoformat().replace("+00:00", "Z")
    shop.fire("soon", late)
    shop.fire("soon", now.isoformat().replace("+00:00", "Z"))
    drain(shop.app, [shop.queue])
    assert len(shop.ran) == 1
    assert shop.app.AsyncResult(f"soon@{late}").state == "REVOKED"


@pytest.mark.timeout(60)
def test_the_service_fires_and_the_task_runs(shop: Shop) -> None:
    due = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    shop.declare(at(due), "once")
    shop.apply()

    def fired() -> bool:
        drain(shop.app, [shop.queue])
        return bool(shop.ran)

    # The stand-in looks every ten seconds, and leaves the place for the slot as it is.
    eventually(fired, within=40)
    assert shop.ran == [("", due.isoformat().replace("+00:00", "Z"))]


@pytest.mark.skipif(os.environ.get("CLOUDQ_DRILL") != "full", reason="80 s: CLOUDQ_DRILL=full")
def test_a_crontab_fires_every_minute(shop: Shop) -> None:
    shop.declare(crontab("* * * * *"), "minutely")
    shop.apply()

    def fired() -> bool:
        drain(shop.app, [shop.queue])
        return len(shop.ran) >= 2

    eventually(fired, within=150)
    slots = [datetime.fromisoformat(slot) for _, slot in shop.ran]
    assert {slot.second for slot in slots} == {0}


def test_plans_do_not_depend_on_when_they_are_made(shop: Shop) -> None:
    shop.declare(crontab("30 7 * * *"), "morning", expires=60)
    [first] = shop.cloud.jobs().values()
    [second] = shop.cloud.jobs().values()
    assert first == second
    body = json.loads(first.body)
    assert body["id"] == "morning@<aws.scheduler.scheduled-time>" == body["idempotency_key"]
    assert "sent_at" not in body
    assert "expires" not in body
    assert body["headers"][CRON] == "both|UTC|30 7 * * *"


class TestRefusals:
    def test_before_anything_is_changed(self, shop: Shop) -> None:
        shop.declare(every(300), "good")
        shop.declare(every(45), "bad")
        with pytest.raises(ConfigurationError, match=r"'bad'.*whole minutes"):
            shop.cloud.plan()
        assert shop.driver.current(shop.cloud.group) == {}

    def test_a_name_that_the_service_does_not_take(self, shop: Shop) -> None:
        shop.app.conf.beat_schedule = {"every day": {"task": "note", "schedule": 3600}}
        with pytest.raises(ConfigurationError, match="'every day': EventBridge Scheduler takes"):
            shop.cloud.plan()

    def test_two_that_would_be_one(self, shop: Shop) -> None:
        shop.declare(crontab("0 0 13 * 5"), "a")
        shop.declare(every(60), "a-2")
        with pytest.raises(ConfigurationError, match="two schedules are 'a-2' in the cloud"):
            shop.cloud.plan()

    def test_messages_that_must_be_signed(self, shop: Shop) -> None:
        shop.declare(every(60), "a")
        shop.app.close()
        shop.app.configure(signing_keys={"k": "0" * 32})
        with pytest.raises(ConfigurationError, match="cannot sign"):
            shop.cloud.plan()

    def test_an_app_without_a_queue_there(self, shop: Shop) -> None:
        shop.declare(every(60), "a", queue=unique("nowhere"))
        with pytest.raises(ServiceError, match="cannot look at schedules"):
            shop.cloud.plan()

    def test_no_role(self, shop: Shop, aws: Endpoint) -> None:
        shop.declare(every(60), "a")
        driver = open_scheduler(parse(f"eventbridge://us-east-1?endpoint_url={aws.url}"))
        cloud = Scheduler(shop.app, driver, url="eventbridge://")
        plan = cloud.plan()
        with pytest.raises(Incomplete, match=r"role=ARN.*0 of 1 changes were made"):
            cloud.apply(plan)
        driver.close()

    def test_what_was_done_is_said_when_it_ends_early(self, shop: Shop) -> None:
        shop.declare(every(60), "a")
        shop.declare(every(60), "b")
        shop.declare(every(60), "c")
        plan = shop.cloud.plan()
        shop.driver.client.create_schedule_group(Name=shop.cloud.group)
        shop.driver.create(shop.cloud.group, _job(plan, "b"))  # somebody is quicker
        with pytest.raises(Incomplete, match="1 of 3 changes were made") as caught:
            shop.cloud.apply(plan)
        assert (caught.value.done, caught.value.left) == (("a",), ("b", "c"))
        assert shown(shop.apply()) == [("create", "c")]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"role": "me"}, "role=me is not the ARN of a role"),
            ({"dead": "x"}, "dead=x is not the ARN of an SQS queue"),
            ({"retries": "186"}, "retries=186 is not a number from 0 to 185"),
            ({"max_age": "x"}, "max_age=x is not a number from 60"),
            ({"group": "a b"}, "group=a b: up to 64 of the characters"),
            ({"zone": "x"}, "has no option 'zone'"),
        ],
    )
    def test_options_that_cannot_be(self, options: dict[str, str], message: str) -> None:
        address = Address(scheme="eventbridge", host="us-east-1", options=options)
        with pytest.raises(ConfigurationError, match=message):
            open_scheduler(address)


def _job(plan: Plan, name: str) -> Any:
    return next(step.job for step in plan.steps if step.name == name)
