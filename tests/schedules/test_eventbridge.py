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
from cloudq.driver.loader import parse
from cloudq.schedules.cloud_sync import Plan, Scheduler
from cloudq.schedules.run_id import CRON
from cloudq.testing import drain, eventually
from cloudq_aws.eventbridge import EventBridge, open_scheduler
from localstack.servers import Endpoint
from tests.schedules.refusing import refusing
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
        return Scheduler(self.app.schedules, self.driver, url="eventbridge://us-east-1")

    def declare(self, when: object, name: str, **more: Any) -> None:
        self.app.periodic(when, name=name, **more)(self.note)

    def anew(self) -> None:
        """Forget what was declared, as another version of the code."""
        self.app.schedules._declared.clear()

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


class TestGroups:
    """A group bears its app in a tag; another's is not touched."""

    def tags(self, shop: Shop) -> list[Any]:
        arn = shop.driver.client.get_schedule_group(Name=shop.cloud.group)["Arn"]
        return list(shop.driver.client.list_tags_for_resource(ResourceArn=arn)["Tags"])

    def test_it_is_tagged_when_it_is_made(self, shop: Shop) -> None:
        shop.declare(every(300), "often")
        shop.apply()
        assert self.tags(shop) == [{"Key": "cloudq:app", "Value": shop.app.name}]
        assert shop.cloud.plan().steps == []

    @pytest.mark.parametrize(
        ("tags", "message"),
        [
            ([], "was not made by cloudq"),
            ([{"Key": "team", "Value": "shop"}], "was not made by cloudq"),
            ([{"Key": "cloudq:app", "Value": "other"}], "is of the app 'other'"),
        ],
    )
    def test_anothers_is_refused(self, shop: Shop, tags: list[Any], message: str) -> None:
        client, group = shop.driver.client, shop.cloud.group
        client.create_schedule_group(Name=group, Tags=tags)
        shop.declare(every(300), "often")
        hint = f"hand the group over by its tag cloudq:app={shop.app.name}"
        with pytest.raises(ConfigurationError, match=f"{group}.* {message}.*{hint}"):
            shop.cloud.plan()
        assert shop.driver.current(group) == {}
        arn = client.get_schedule_group(Name=group)["Arn"]
        client.tag_resource(ResourceArn=arn, Tags=[{"Key": "cloudq:app", "Value": shop.app.name}])
        assert shown(shop.apply()) == [("create", "often")]

    def test_names_that_would_share_a_group_do_not(self, shop: Shop) -> None:
        shop.declare(every(300), "often")
        shop.apply()
        dashed = shop.app.name
        shop.app.runtime.name = dashed.replace("-", "/", 1)
        assert shop.cloud.group == f"cloudq-{dashed}"
        with pytest.raises(ConfigurationError, match=f"is of the app '{dashed}'"):
            shop.cloud.plan()

    def test_a_name_that_no_tag_can_have(self, shop: Shop) -> None:
        shop.app.runtime.name = f"{shop.app.name}*!"
        shop.declare(every(300), "often")
        shop.apply()
        assert shop.cloud.plan().steps == []


def test_a_fifo_queue_gets_its_messages_with_a_group(shop: Shop) -> None:
    queue = unique("sched") + ".fifo"
    shop.app.broker.admin.create(queue, lease=30, max_deliveries=30)
    due = datetime(2100, 1, 1, tzinfo=UTC)
    shop.declare(at(due), "once", queue=queue)
    shop.declare(at(due), "other", queue=queue, options={"group_key": "customers"})
    shop.declare(crontab("30 7 * * *"), "plain")
    shop.apply()
    assert shop.cloud.plan().steps == []
    client, group = shop.driver.client, shop.cloud.group
    targets = {
        name: client.get_schedule(GroupName=group, Name=name)["Target"]
        for name in ("once", "other", "plain")
    }
    # The schedule's name, or the key of its calls: runs of one come one after the other.
    assert targets["once"].get("SqsParameters") == {"MessageGroupId": "once"}
    assert targets["other"].get("SqsParameters") == {"MessageGroupId": "customers"}
    assert "SqsParameters" not in targets["plain"]


def test_another_role_and_other_retries_are_a_change(shop: Shop, aws: Endpoint) -> None:
    shop.declare(every(300), "often")
    shop.apply()
    other = "arn:aws:iam::000000000000:role/other"
    url = f"eventbridge://us-east-1?role={other}&retries=3&max_age=600&endpoint_url={aws.url}"
    driver = open_scheduler(parse(url))
    cloud = Scheduler(shop.app.schedules, driver, url="eventbridge://us-east-1")
    plan = cloud.plan()
    assert [dict(step.parts) for step in plan.steps] == [
        {
            "role": (ROLE, other),
            "retries": ("185", "3"),
            "max_age": ("86400", "600"),
            "dead": (DEAD, None),
        }
    ]
    cloud.apply(plan)
    target = driver.client.get_schedule(GroupName=cloud.group, Name="often")["Target"]
    assert (target["RoleArn"], target.get("DeadLetterConfig")) == (other, None)
    assert cloud.plan().steps == []
    driver.close()


def test_a_start_that_is_past_is_left_out(shop: Shop) -> None:
    start = datetime.now(UTC).replace(microsecond=0)
    for name, days in (("begun", -1), ("coming", 1)):
        shop.declare(every(300), name, start=start + timedelta(days=days))
    shop.apply()
    client, group = shop.driver.client, shop.cloud.group
    # The service refuses a StartDate that is past.
    assert "StartDate" not in client.get_schedule(GroupName=group, Name="begun")
    coming: Any = client.get_schedule(GroupName=group, Name="coming")
    assert coming["StartDate"] == start + timedelta(days=1)
    assert shop.cloud.plan().steps == []


def test_a_start_that_passes_is_no_change(shop: Shop) -> None:
    start = (datetime.now(UTC) + timedelta(seconds=3)).replace(microsecond=0)
    shop.declare(every(300), "often", start=start)
    shop.apply()
    made: Any = shop.driver.client.get_schedule(GroupName=shop.cloud.group, Name="often")
    assert made["StartDate"] == start
    eventually(lambda: datetime.now(UTC) > start)
    assert shop.cloud.plan().steps == []


def test_a_group_that_there_is_not_may_be_an_error(aws: Endpoint) -> None:
    # Which it is to the service, and not to the stand-in.
    with refusing(aws) as proxy:
        proxy.refuse("GET", 404, "ResourceNotFoundException")
        driver = open_scheduler(parse(f"eventbridge://us-east-1?endpoint_url={proxy.url}"))
        assert driver.current("cloudq-x") == {}
        driver.close()


def test_a_time_that_is_past_is_said(shop: Shop) -> None:
    shop.declare(at(datetime(2020, 1, 1, tzinfo=UTC)), "past")
    shop.declare(every(300), "ended", end=datetime(2020, 1, 2, tzinfo=UTC))
    shop.declare(every(300), "often")
    plan = shop.apply()
    assert shown(plan) == [("create", "often")]
    assert plan.over == {
        "ended": "it ended at 2020-01-02 00:00:00 UTC",
        "past": "its time, 2020-01-01 00:00:00 UTC, is past",
    }
    assert shop.cloud.plan().over == plan.over


def test_the_service_fires_and_the_task_runs(shop: Shop) -> None:
    fifo = unique("sched") + ".fifo"
    shop.app.broker.admin.create(fifo, lease=30, max_deliveries=30)
    due = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    shop.declare(at(due), "once", kwargs={"tag": "plain"})
    shop.declare(at(due), "ordered", kwargs={"tag": "fifo"}, queue=fifo)
    shop.apply()

    def fired() -> bool:
        drain(shop.app, [shop.queue, fifo])
        return len(shop.ran) == 2

    # The stand-in looks every ten seconds, and leaves the place for the slot as it is.
    eventually(fired)
    slot = due.isoformat().replace("+00:00", "Z")
    assert sorted(shop.ran) == [("fifo", slot), ("plain", slot)]


@pytest.mark.skipif(os.environ.get("CLOUDQ_DRILL") != "full", reason="80 s: CLOUDQ_DRILL=full")
def test_a_crontab_fires_every_minute(shop: Shop) -> None:
    shop.declare(crontab("* * * * *"), "minutely")
    shop.apply()

    def fired() -> bool:
        drain(shop.app, [shop.queue])
        return len(shop.ran) >= 2

    eventually(fired)
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
    def test_a_name_that_the_service_does_not_take(self, shop: Shop) -> None:
        shop.app.conf.beat_schedule = {"every day": {"task": "note", "schedule": 3600}}
        with pytest.raises(
            ConfigurationError, match=r"'every day' .*: EventBridge Scheduler takes"
        ):
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
        cloud = Scheduler(shop.app.schedules, driver, url="eventbridge://")
        with pytest.raises(ConfigurationError, match="needs role=ARN"):
            cloud.plan()
        driver.close()

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
