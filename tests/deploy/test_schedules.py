"""The schedules of a plan are those of `cloudq schedules apply`, part by part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, at, crontab, every, solar
from cloudq.cli import main
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.schedules.cloud_sync import Scheduler
from cloudq_aws.eventbridge import flat, open_scheduler
from cloudq_deploy.aws import terraform
from cloudq_deploy.aws.iam import scheduler_url
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.render import cloudformation
from localstack.servers import Endpoint
from tests.deploy.recording import ACCOUNT, PLACE, REGION
from tests.servers import unique

LATE = datetime(2090, 1, 1, tzinfo=UTC)


@pytest.fixture
def app(aws: Endpoint) -> Iterator[CloudQ]:
    """An app with every kind of schedule that EventBridge Scheduler can have, and its queues."""
    name = unique("sched")
    app = CloudQ(name, broker=f"sqs://{REGION}?prefix={name}-&endpoint_url={aws.url}")

    @app.periodic(crontab(hour=7, minute=30, day_of_week=1), name="weekly", timezone="Asia/Tokyo")
    @app.periodic(crontab("0 0 13 * 5"), name="unlucky", kwargs={"n": 2}, expires=60)
    @app.periodic(every(300), name="often", jitter=90, end=LATE)
    @app.periodic(at(LATE), name="once", timezone="America/New_York")
    @app.periodic(crontab("0 6 * * *"), name="ordered", queue="orders.fifo", enabled=False)
    @app.periodic(crontab("0 6 * * *"), name="later", start=LATE, queue="reports")
    @app.task(name="count", queue="mail", time_limit=100)
    def count(n: int = 1) -> int:
        return n

    for queue in ("mail", "orders.fifo", "reports"):
        app.broker.admin.create(queue, lease=30, max_deliveries=20)
    yield app
    app.close()


def planned(app: CloudQ, **target: Any) -> Plan:
    return plan_of(app, "shop:app", AwsOptions(**{"region": REGION, **target}))


def resolved(value: Any, plan: Plan) -> Any:
    """A property of the template as CloudFormation hands it on to the service."""
    if isinstance(value, dict):
        if set(value) == {"Fn::GetAtt"}:
            return arns(plan)[value["Fn::GetAtt"][0]]
        return {key: resolved(each, plan) for key, each in value.items()}
    return value


def arns(plan: Plan) -> dict[str, str]:
    assert plan.scheduling is not None
    made = cloudformation.template(plan)["Resources"]
    queues = {
        name: f"arn:aws:sqs:{REGION}:{ACCOUNT}:{each['Properties']['QueueName']}"
        for name, each in made.items()
        if each["Type"] == "AWS::SQS::Queue"
    }
    return queues | {"SchedulerRole": f"arn:aws:iam::{ACCOUNT}:role/{plan.scheduling.role}"}


def of_template(plan: Plan) -> dict[str, Any]:
    """The schedules of the template, each as the service would show it."""
    found: dict[str, Any] = {}
    for each in cloudformation.template(plan)["Resources"].values():
        if each["Type"] == "AWS::Scheduler::Schedule":
            shown = resolved(each["Properties"], plan)
            for name in {"StartDate", "EndDate"} & shown.keys():
                shown[name] = datetime.fromisoformat(shown[name])
            found[shown["Name"]] = flat(shown)
    return found


def test_the_template_has_what_the_command_would_make(app: CloudQ, aws: Endpoint) -> None:
    plan = planned(app)
    url = scheduler_url(plan, PLACE)
    with closing(open_scheduler(parse(f"{url}&endpoint_url={aws.url}"))) as driver:
        scheduler = Scheduler(app.schedules, driver, url="eventbridge://")
        wanted = {name: driver.fields(job) for name, job in scheduler.jobs().items()}
        assert plan.scheduling is not None
        assert scheduler.group == plan.scheduling.group
    assert of_template(plan) == wanted
    assert wanted.keys() == {"weekly", "unlucky", "unlucky-2", "often", "once", "ordered", "later"}
    assert wanted["weekly"]["timezone"] == "Asia/Tokyo"
    assert wanted["often"]["window"] == "2"
    assert wanted["ordered"]["state"] == "DISABLED"
    assert wanted["ordered"]["group"] == "ordered"
    assert wanted["later"]["start"] == LATE.isoformat()


def test_terraform_has_the_same(app: CloudQ) -> None:
    made = terraform.configuration(planned(app))["resource"]
    often = made["aws_scheduler_schedule"]["often"]
    assert often["schedule_expression"] == "rate(5 minutes)"
    assert often["flexible_time_window"] == {"mode": "FLEXIBLE", "maximum_window_in_minutes": 2}
    assert often["end_date"] == "2090-01-01T00:00:00Z"
    assert often["target"]["retry_policy"] == {
        "maximum_event_age_in_seconds": 86_400,
        "maximum_retry_attempts": 185,
    }
    assert "schedules_undelivered" in often["target"]["dead_letter_config"]["arn"]
    ordered = made["aws_scheduler_schedule"]["ordered"]
    assert ordered["target"]["sqs_parameters"] == {"message_group_id": "ordered"}
    assert made["aws_sqs_queue"]["orders_fifo"]["content_based_deduplication"] is True


def test_a_queue_that_only_a_schedule_names_is_made_for_its_task(app: CloudQ) -> None:
    plan = planned(app)
    assert {queue.name for queue in plan.queues} == {"default", "mail", "orders.fifo", "reports"}
    [reports] = [each for each in plan.functions if each.queues == ("reports",)]
    assert (reports.tasks, reports.timeout) == (("count",), 110)


def test_stages_of_an_app_have_groups_of_their_own(app: CloudQ, aws: Endpoint) -> None:
    plain, staged = planned(app), planned(app, stack="staging")
    assert plain.scheduling is not None
    assert staged.scheduling is not None
    assert plain.scheduling.group == f"cloudq-{app.name}"
    assert staged.scheduling.group == "cloudq-staging"
    url = scheduler_url(staged, PLACE)
    with closing(open_scheduler(parse(f"{url}&endpoint_url={aws.url}"))) as driver:
        assert Scheduler(app.schedules, driver, url="").group == "cloudq-staging"


def test_all_that_cannot_be_is_named_before_anything_is_made() -> None:
    app = CloudQ("shop")

    @app.periodic(every(30), name="fast")
    @app.periodic(crontab.from_string("0 0 3 * 5"), name="both")
    @app.periodic(solar("sunset", 48.2, 16.4), name="dusk")
    @app.periodic(crontab("* * * * *"), name="fine")
    @app.task
    def task() -> None: ...

    with pytest.raises(ConfigurationError) as refusal:
        planned(app)
    said = str(refusal.value)
    for name in ("'fast'", "'both'", "'dusk'", 'schedules = "beat"'):
        assert name in said
    assert "fine" not in said
    left = planned(app, schedules="beat")
    assert (left.schedules, left.scheduling) == ((), None)
    assert left.beat["fast"] == "every(30 s) UTC"
    assert left.beat.keys() == {"fast", "both", "dusk", "fine"}


def test_signed_messages_are_left_to_a_beat() -> None:
    app = CloudQ("shop", signing_keys={"k": "0" * 32})
    app.periodic(every(60), name="a")(app.task(lambda: None))
    with pytest.raises(ConfigurationError, match="cannot sign messages"):
        planned(app)


@pytest.mark.usefixtures("fresh_modules")
def test_the_command_shows_them(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = shop / "shop" / "tasks.py"
    tasks.write_text(
        tasks.read_text() + "\nfrom cloudq import every\n"
        "app.add_periodic_task(every(300), add.s(1, 2), name='often')\n"
    )
    capsys.readouterr()
    command = ["deploy", "plan", "aws", "-A", "shop.tasks:app"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    [shown] = [line for line in lines if re.match("schedule +often", line)]
    assert "rate(5 minutes) UTC -> default" in shown
    assert any("shop-schedules-undelivered" in line for line in lines)
    assert main([*command, "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["schedules"]
    assert (entry["name"], entry["task"]) == ("often", "shop.tasks.add")
    project = shop / "pyproject.toml"
    project.write_text(project.read_text() + 'schedules = "beat"\n')
    assert main(command) == 0
    [needed] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("needs a beat")]
    assert "often" in needed
    assert "run `cloudq beat`" in needed
