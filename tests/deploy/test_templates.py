"""Templates as the tools that read them see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws import terraform
from cloudq_deploy.aws.deployment import FORMATS
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import Plan, Schedule
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.render import cloudformation, sam

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
LAYER = "arn:aws:lambda:eu-west-1:123456789012:layer:common:3"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop@sha256:" + 64 * "0"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"


def rich(**target: object) -> Plan:
    """A plan with everything that a plan can have."""
    app = CloudQ("shop", priority_queues=["mail"])
    app.task(name="a", queue="mail", memory=256, max_concurrency=2, env={"MODE": "x"})(lambda: None)
    app.task(name="b", queue="orders.fifo", reserved_concurrency=4, provisioned=2)(lambda: None)
    app.task(name="c", time_limit=60)(lambda: None)
    schedules = [
        Schedule(name="nightly", expression="cron(30 7 ? * MON *)", queue="mail", input="{}"),
        Schedule(
            name="hourly",
            expression="rate(1 hour)",
            queue="orders.fifo",
            input="{}",
            timezone="Asia/Shanghai",
            enabled=False,
            end=datetime(2090, 1, 1, tzinfo=UTC),
            window=5,
        ),
    ]
    values = {"region": "eu-west-1", "tracing": "Active", "layers": (LAYER,), "alarm_topic": TOPIC}
    return plan_of(app, "shop:app", AwsOptions(**(values | target)), schedules)


PLANS: dict[str, Callable[[], Plan]] = {
    "rich": rich,
    "with a key": lambda: rich(kms_key=KEY),
    "one function": lambda: rich(functions="one", alarms=False),
    "an image": lambda: rich(package="image", image=IMAGE, layers=()),
}


# It takes a second for twenty resources: each part of a template is in one of these.
LINTED = [
    ("cloudformation", PLANS["with a key"]),
    ("cloudformation", PLANS["one function"]),
    ("cloudformation", lambda: rich(package="image", image=IMAGE, layers=(), functions="one")),
    ("sam", PLANS["with a key"]),
    ("sam", lambda: rich(package="image", image=IMAGE, layers=(), functions="one", alarms=False)),
]


@pytest.mark.parametrize(("format", "plan"), LINTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cfn_lint_finds_nothing(format: str, plan: Callable[[], Plan]) -> None:
    from cfnlint.api import ManualArgs, lint

    text = json.dumps(FORMATS[format](plan()))
    assert [str(match) for match in lint(text, config=ManualArgs(regions=["eu-west-1"]))] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cfn_lint_would_find_something() -> None:
    from cfnlint.api import ManualArgs, lint

    made = cloudformation.template(rich(functions="one", alarms=False))
    made["Resources"]["MailQueue"]["Properties"]["VisibilityTimeout"] = -1
    assert lint(json.dumps(made), config=ManualArgs(regions=["eu-west-1"]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_sam_translates_to_the_same_functions(
    plan: Callable[[], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    template = json.loads(json.dumps(sam.template(plan())))
    made: Any = Translator({}, Parser()).translate(
        template, {"CodeBucket": "b", "CodeKey": "k", "ImageUri": IMAGE}
    )
    expected = cloudformation.template(plan())["Resources"]
    functions = {
        name: each["Properties"]
        for name, each in made["Resources"].items()
        if each["Type"] == "AWS::Lambda::Function"
    }
    own = {
        name: each["Properties"]
        for name, each in expected.items()
        if each["Type"] == "AWS::Lambda::Function"
    }
    assert functions.keys() == own.keys()
    # It puts the parameters in where it makes an alias, and leaves the references elsewhere.
    named = {"S3Bucket": "b", "S3Key": "k"}
    image = {"ImageUri": {"Ref": "ImageUri"}}
    referred = {"S3Bucket": {"Ref": "CodeBucket"}, "S3Key": {"Ref": "CodeKey"}}
    for name, properties in own.items():
        translated = functions[name]
        translated.pop("Tags", None)
        assert translated.pop("Code") in (named, referred, image, {"ImageUri": IMAGE})
        assert translated == {key: value for key, value in properties.items() if key != "Code"}
    mappings = [e for e in made["Resources"].values() if e["Type"].endswith("EventSourceMapping")]
    assert len(mappings) == len(plan().mappings)


def test_the_template_says_what_the_plan_says() -> None:
    resources = cloudformation.template(rich(), "abcdef")["Resources"]
    queue = resources["MailHighQueue"]
    assert queue["DeletionPolicy"] == "RetainExceptOnCreate"
    assert queue["Properties"]["VisibilityTimeout"] == 6 * 60
    assert queue["Properties"]["SqsManagedSseEnabled"] is True
    table = resources["Results"]["Properties"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    function = resources["ShopMailFunction"]["Properties"]
    assert function["RecursiveLoop"] == "Allow"
    assert function["Environment"]["Variables"]["CLOUDQ_MAX_DEPTH"] == "1000"
    feed = resources["MailFeed"]["Properties"]
    assert feed["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert feed["ScalingConfig"] == {"MaximumConcurrency": 2}
    warm = resources["OrdersFifoFeed"]["Properties"]["FunctionName"]
    assert warm == {"Ref": "ShopOrdersFunctionLive"}
    assert "ShopOrdersFunctionVersionabcdef" in resources
    hourly = resources["HourlySchedule"]["Properties"]
    assert hourly["Target"]["SqsParameters"] == {"MessageGroupId": "hourly"}
    assert hourly["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}
    assert hourly["EndDate"] == "2090-01-01T00:00:00Z"
    # FIFO queues take what Scheduler sends only so, and cannot be its dead-letter queue.
    assert resources["OrdersFifoQueue"]["Properties"]["ContentBasedDeduplication"] is True
    assert "ContentBasedDeduplication" not in resources["MailQueue"]["Properties"]
    assert hourly["Target"]["DeadLetterConfig"]["Arn"] == {"Fn::GetAtt": ["Undelivered", "Arn"]}
    tags = resources["Schedules"]["Properties"]["Tags"]
    assert {"Key": "cloudq:app", "Value": "shop"} in tags
    assert {each["Type"] for each in resources.values()} >= {
        "AWS::Scheduler::ScheduleGroup",
        "AWS::CloudWatch::Alarm",
        "AWS::Logs::LogGroup",
    }


@pytest.mark.parametrize("draw", [cloudformation.template, terraform.configuration])
def test_names_that_would_be_one_in_the_template_are_refused(draw: Callable[[Plan], Any]) -> None:
    app = CloudQ("shop")
    app.task(name="a", queue="mail_1")(lambda: None)
    app.task(name="b", queue="mail-1")(lambda: None)
    plan = plan_of(app, "shop:app", AwsOptions(region="eu-west-1", functions="one"), [])
    with pytest.raises(ConfigurationError, match=r"mail[_-]1.*: give one of them another name"):
        draw(plan)


def test_terraform_has_the_same_resources_and_its_references_lead_somewhere() -> None:
    made = terraform.configuration(rich())
    resources: dict[str, Any] = made["resource"]
    queues = {each["name"] for each in resources["aws_sqs_queue"].values()}
    plan = rich()
    named = {name for q in plan.queues for name in (q.full_name, q.dead_name)}
    assert queues == {*named, "shop-schedules-undelivered"}
    assert len(resources["aws_lambda_function"]) == len(plan.functions)
    assert len(resources["aws_lambda_event_source_mapping"]) == len(plan.mappings)
    text = json.dumps(made)
    for kind, named in resources.items():
        assert all(name.replace("_", "").isalnum() for name in named), kind
    import re

    for kind, name in re.findall(r"\$\{(aws_[a-z_]+)\.([A-Za-z0-9_]+)\.[a-z_]+\}", text):
        assert name in resources[kind], (kind, name)
    for name in re.findall(r"\$\{var\.([a-z_]+)\}", text):
        assert name in made["variable"]


@pytest.mark.usefixtures("fresh_modules")
def test_export_prints_each_format(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format, key in (
        ("cloudformation", "Resources"),
        ("sam", "Transform"),
        ("terraform", "resource"),
    ):
        capsys.readouterr()
        assert main(["deploy", "export", "-A", "shop.tasks:app", "-f", format]) == 0
        assert key in json.loads(capsys.readouterr().out)
    assert main(["deploy", "export", "-A", "shop.tasks:app", "-f", "pulumi"]) == 2
