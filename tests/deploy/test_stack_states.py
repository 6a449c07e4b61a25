"""Stacks that cannot be changed, applies that fail: said clearly, and nothing half-done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest

from cloudq import CloudQ, every
from cloudq.broker.one_time import one_time_group_of
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.stack.access import Aws, DeployError
from cloudq_deploy.aws.stack.apply import Code, apply, roll_back
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.stack.changes import ChangeSet
from cloudq_deploy.aws.stack.destroy import destroy
from cloudq_deploy.aws.stack.drift import Drift, is_pause
from cloudq_deploy.aws.stack.resources import Resource
from cloudq_deploy.aws.stack.state import StackState, check_ready, look
from cloudq_deploy.aws.stack.watch import Event
from localstack.servers import Endpoint
from tests.servers import unique


class Log:
    """A screen that keeps what it is shown, and answers as it is told."""

    def __init__(self, *, answer: bool = True) -> None:
        self.answer = answer
        self.lines: list[str] = []

    def show(self, changes: ChangeSet) -> None:
        self.lines += [f"{change.action} {change.name}" for change in changes.changes]

    def confirm(self, changes: ChangeSet) -> bool:
        return self.answer

    def tell(self, event: Event) -> None:
        self.lines.append(f"{event.status} {event.name}")

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def here(aws: Endpoint) -> Aws:
    return Aws(region="us-east-1", endpoint_url=aws.url)


@pytest.fixture
def plan(here: Aws) -> Iterator[Plan]:
    app = CloudQ(unique("stack"))
    app.task(name="a")(lambda: None)
    made = plan_of(app, "shop:app", AwsOptions(region="us-east-1", alarms=False))
    yield made
    if look(here, made.stack):
        destroy(here, made.stack, Log(), bucket=Bucket(here, made.stack), data=True)


def applied(aws: Aws, plan: Plan, screen: Log, **options: Any) -> Any:
    code = Code(digest="0" * 64, image=None)
    return apply(aws, plan, code, screen, bucket=Bucket(aws, plan.stack), **options)


def test_no_for_an_answer_leaves_nothing(here: Aws, plan: Plan) -> None:
    screen = Log(answer=False)
    assert applied(here, plan, screen) is None
    assert "nothing was changed" in screen.lines
    assert any(line.startswith("Add ") for line in screen.lines)
    assert look(here, plan.stack) is None
    with pytest.raises(here.sqs.exceptions.QueueDoesNotExist):
        here.sqs.get_queue_url(QueueName=plan.queues[0].full_name)


def test_an_apply_that_fails_is_rolled_back_with_the_reason(here: Aws, plan: Plan) -> None:
    missing = "arn:aws:lambda:us-east-1:000000000000:layer:nowhere:1"
    broken = replace(plan, functions=(replace(plan.functions[0], layers=(missing,)),))
    with pytest.raises(DeployError) as error:
        applied(here, broken, Log())
    assert "could not be changed" in str(error.value)
    assert "AWS::Lambda::Function" in str(error.value)
    assert "its resources were deleted again" in str(error.value)
    with pytest.raises(here.sqs.exceptions.QueueDoesNotExist):
        here.sqs.get_queue_url(QueueName=plan.queues[0].full_name)
    with pytest.raises(DeployError, match=r"is in ROLLBACK_COMPLETE.*cloudq deploy destroy"):
        applied(here, plan, Log())
    destroy(here, plan.stack, Log(), bucket=Bucket(here, plan.stack), data=False)
    assert look(here, plan.stack) is None


def test_a_foreign_stack_is_left_alone(here: Aws, plan: Plan, aws: Endpoint) -> None:
    body = {"Resources": {"Q": {"Type": "AWS::SQS::Queue"}}}
    client: Any = boto3.client("cloudformation", endpoint_url=aws.url)  # type: ignore[call-overload]
    client.create_stack(StackName=plan.stack, TemplateBody=json.dumps(body))
    with pytest.raises(DeployError, match=r"was not made by cloudq.*--stack"):
        applied(here, plan, Log())


def test_a_foreign_queue_is_left_alone(here: Aws, plan: Plan) -> None:
    name = plan.queues[0].full_name
    url = here.sqs.create_queue(QueueName=name)["QueueUrl"]
    with pytest.raises(DeployError, match=f"queue {name} exists already"):
        applied(here, plan, Log())
    assert look(here, plan.stack) is None
    here.sqs.delete_queue(QueueUrl=url)


def test_a_foreign_schedule_group_is_left_alone(here: Aws) -> None:
    """As `cloudq schedules apply` makes one, before there is a deployment."""
    app = CloudQ(unique("stack"))
    app.periodic(every(300), name="often")(app.task(lambda: None, name="a"))
    plan = plan_of(app, "shop:app", AwsOptions(region="us-east-1", alarms=False))
    assert plan.scheduling is not None
    here.scheduler.create_schedule_group(Name=plan.scheduling.group)
    with pytest.raises(DeployError, match=r"schedule group cloudq-stack.*delete-schedule-group"):
        applied(here, plan, Log())
    assert look(here, plan.stack) is None
    here.scheduler.delete_schedule_group(Name=plan.scheduling.group)


def test_far_calls_wait_until_the_data_goes(here: Aws, plan: Plan) -> None:
    group = one_time_group_of(plan.app)
    here.scheduler.create_schedule_group(Name=group)
    applied(here, plan, Log())
    destroy(
        here, plan.stack, Log(), bucket=Bucket(here, plan.stack), data=False, one_time_group=group
    )
    assert here.scheduler.get_schedule_group(Name=group)["State"] == "ACTIVE"
    screen = Log()
    for _ in range(2):  # gone is as good
        destroy(
            here,
            plan.stack,
            screen,
            bucket=Bucket(here, plan.stack),
            data=True,
            one_time_group=group,
        )
    with pytest.raises(here.scheduler.exceptions.ResourceNotFoundException):
        here.scheduler.get_schedule_group(Name=group)
    assert screen.lines.count(f"deleted {group}") == 1


def test_what_a_destroy_has_kept_is_taken_over(here: Aws, plan: Plan) -> None:
    applied(here, plan, Log())
    url = here.sqs.get_queue_url(QueueName=plan.queues[0].full_name)["QueueUrl"]
    here.sqs.send_message(QueueUrl=url, MessageBody="kept", DelaySeconds=900)
    left = destroy(here, plan.stack, Log(), bucket=Bucket(here, plan.stack), data=False)
    assert len(left) == 3
    refusing = Log(answer=False)
    assert applied(here, plan, refusing, adopt=True) is None
    assert look(here, plan.stack) is None
    screen = Log()
    applied(here, plan, screen, adopt=True)
    assert sum(line.startswith("Import ") for line in screen.lines) == 3
    standing = look(here, plan.stack)
    assert standing is not None
    assert standing.tags["cloudq:app"] == plan.app
    names: Any = ["ApproximateNumberOfMessagesDelayed"]
    reply = here.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    assert reply["Attributes"] == {"ApproximateNumberOfMessagesDelayed": "1"}
    assert applied(here, plan, again := Log()) is not None
    assert any("no changes" in line for line in again.lines)


@pytest.mark.parametrize(
    ("kind", "path", "is_one"),
    [
        ("AWS::Scheduler::Schedule", "/State", True),
        ("AWS::Scheduler::Schedule", "/ScheduleExpression", False),
        ("AWS::SQS::Queue", "/State", False),
    ],
)
def test_a_pause_is_no_change_by_hand(kind: str, path: str, is_one: bool) -> None:
    """By values: the stand-in does not compare schedules."""
    resource = Resource(name="S", kind=kind, physical="often", status="CREATE_COMPLETE")
    found = Drift(name="S", physical="often", path=path, expected="ENABLED", actual="DISABLED")
    assert is_pause(resource, found) is is_one


def test_there_is_nothing_to_roll_back_to_at_first(here: Aws, plan: Plan) -> None:
    with pytest.raises(DeployError, match="has no earlier release"):
        roll_back(here, plan.app, plan.stack, {}, Log(), bucket=Bucket(here, plan.stack))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("UPDATE_IN_PROGRESS", "wait until that is done"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name shop"),
        ("DELETE_FAILED", "destroy"),
    ],
)
def test_a_stack_in_a_bad_state_says_what_to_do(status: str, said: str) -> None:
    with pytest.raises(DeployError) as error:
        check_ready(StackState(name="shop", status=status, reason="because"))
    assert said in str(error.value)


def test_without_credentials_nothing_is_tried(
    aws: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match=r"no AWS credentials.*nothing was changed"):
        _ = Aws(region="us-east-1", endpoint_url=aws.url).account


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ConfigurationError, match="write the address with http:// or https://"):
        Aws(region="us-east-1", endpoint_url="127.0.0.1:4566")


def test_an_endpoint_where_nobody_listens_is_named() -> None:
    with pytest.raises(DeployError, match="check --endpoint-url"):
        _ = Aws(region="us-east-1", endpoint_url="http://127.0.0.1:9").account
