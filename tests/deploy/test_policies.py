"""Each policy against the calls that the code makes: all of them allowed, and nothing else granted.

The calls are recorded from botocore while drills run on a local AWS. What Lambda's own poller and
CloudFormation call is not ours to record; those actions are named here, from AWS's documentation.
What a deployer calls is recorded in test_loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cloudq import CloudQ, every
from cloudq.cli import main
from cloudq.driver import Change, Item, Key, StoreAdmin
from cloudq.driver.loader import parse
from cloudq.errors import Reject
from cloudq.schedules.cloud_sync import Scheduler
from cloudq.testing import eventually
from cloudq_aws import lambda_handler
from cloudq_aws.eventbridge import open_scheduler
from cloudq_deploy.aws import terraform
from cloudq_deploy.aws.iam import (
    Place,
    Role,
    document,
    of_function,
    schedule_groups,
    scheduler_url,
    statements,
    trust,
)
from cloudq_deploy.aws.iam_deployer import deployer, unscoped_part
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import Plan, Schedule
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.render import cloudformation
from localstack.servers import Endpoint
from tests.deploy.recording import (
    ACCOUNT,
    PLACE,
    REGION,
    Calls,
    actions,
    granted,
    recorded,
    refused,
)
from tests.deploy.test_loop import WATCHING
from tests.docs.blocks import section
from tests.functions.aws.events import EventSource
from tests.servers import unique

AWS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "run-on-aws.md"
# "Lambda polls with the function's role": receive, delete, attributes (Lambda's guide on SQS).
POLLER = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
LOGGER = {"logs:CreateLogStream", "logs:PutLogEvents"}
# What `deploy status`, `logs` and `invoke` call, which test_loop records.
DEPLOYED = WATCHING - {"sqs:GetQueueAttributes"}


@pytest.fixture
def calls() -> Iterator[Calls]:
    """Records the calls of every client that is made in the test."""
    with recorded() as recorder:
        yield recorder


@dataclass
class Stand:
    """An app on real queues and a real table, with the plan that would make these."""

    app: CloudQ
    plan: Plan
    source: EventSource


@pytest.fixture
def stand(aws: Endpoint, calls: Calls) -> Iterator[Stand]:
    name = unique("iam")
    app = CloudQ(
        name,
        broker=f"sqs://{REGION}?prefix={name}-&endpoint_url={aws.url}",
        backend=f"dynamodb://{name}?region={REGION}&endpoint_url={aws.url}",
        default_retry_delay=0.0,
        task_track_started=True,
    )

    @app.task(name="work", bind=True, max_retries=1, idempotent=True)
    def work(self: Any, how: str, number: int = 0) -> int:
        if how == "retry" and not self.request.retries:
            raise self.retry(countdown=0)
        if how == "put back" and self.request.attempts < 2:
            raise Reject("busy", requeue=True)
        if how == "refuse":
            raise Reject("never")
        return number

    plan = plan_of(app, "iam:app", AwsOptions())
    for queue in plan.queues:
        app.broker.admin.create(queue.name, lease=30, max_deliveries=20)
    assert app.backend is not None
    assert isinstance(app.backend.driver, StoreAdmin)
    app.backend.driver.create_store()
    made = Stand(app, plan, EventSource(app, plan.queues[0].full_name))
    with app:
        yield made


def test_a_producer_may_do_what_producers_do_and_no_more(stand: Stand, calls: Calls) -> None:
    app = stand.app
    work = app.tasks["work"]
    again = CloudQ("again", broker=app.conf.broker, backend=app.conf.backend)  # its own look-ups
    calls.made.clear()
    with again:
        again.task(name="work")(lambda how, number=0: None)
        again.tasks["work"].delay("x")
        again.publish(work.prepare("x", n) for n in range(12))
        flow(again, work)
    policy = document(statements(stand.plan, "producer"), PLACE)
    assert refused(calls.made, policy) == []
    unused = actions(granted(policy)) - actions(calls.made)
    assert unused == set()


def flow(app: CloudQ, work: Any) -> None:
    """Everything that a producer has to do with results."""
    from cloudq import chord, group

    mine = app.tasks["work"]
    result = mine.delay("x")
    result.state  # noqa: B018
    group(mine.s("x", n) for n in range(3)).apply_async()
    chord([mine.s("x", n) for n in range(3)])(mine.si("x"))
    result.revoke()
    result.forget()
    meet_an_expired_item(app)


def meet_an_expired_item(app: CloudQ) -> None:
    """As a claim does that stands in the place of one that has ended."""
    assert app.backend is not None
    key = Key(unique("claim"))
    app.backend.driver.put([Item(key=key, fields={"n": 1}, expires=time.time() - 60)])
    made = app.backend.driver.update(key, Change(set={"n": 2}, expires=time.time() + 60))
    assert made.fields["n"] == 2


def test_a_function_may_do_what_the_handler_does_and_no_more(stand: Stand, calls: Calls) -> None:
    [function] = stand.plan.functions
    work = stand.app.tasks["work"]
    handler = lambda_handler(stand.app)
    stand.app.publish(
        [*(work.prepare("x", n) for n in range(3)), work.prepare("retry"), work.prepare("refuse")]
    )
    calls.made.clear()
    drain(stand, handler)
    meet_an_expired_item(stand.app)
    policy = document(of_function(stand.plan, function), PLACE)
    assert refused(calls.made, policy) == []
    unused = actions(granted(policy)) - actions(calls.made) - POLLER - LOGGER
    assert unused == set()


def test_a_worker_may_do_what_its_drivers_do_and_no_more(stand: Stand, calls: Calls) -> None:
    app = stand.app
    again = CloudQ("again", broker=app.conf.broker, backend=app.conf.backend)
    app.publish(app.tasks["work"].prepare("x", n) for n in range(3))
    calls.made.clear()
    with again:
        again.task(name="work")(lambda how, number=0: None)
        driver, store = again.broker.driver, again.backend
        assert store is not None
        first, second, third = take(driver, 3)
        assert driver.extend([first], lease=60) == []
        assert driver.ack([first]) == []
        assert driver.release([second], after=0) == []
        assert driver.dead_letter([third], reason="never") == []
        flow(again, None)
        store.query("parked")
        assert isinstance(store.driver, StoreAdmin)
        store.driver.check_store()
    policy = document(statements(stand.plan, "worker"), PLACE)
    assert refused(calls.made, policy) == []
    assert actions(granted(policy)) - actions(calls.made) == set()


def take(driver: Any, count: int) -> list[Any]:
    found: list[Any] = []
    eventually(
        lambda: (
            found.extend(driver.receive("default", count=count, wait=1, lease=30))
            or len(found) >= count
        )
    )
    return found[:count]


def drain(stand: Stand, handler: Callable[..., Any]) -> None:
    for _ in range(4):
        event = stand.source.take(wait=2)
        if not event["Records"]:
            return
        stand.source.settle(handler(event, None))


def test_an_operator_may_do_what_operators_do_and_no_more(
    stand: Stand, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks, purges, redrives, revokes; by the commands."""
    app = stand.app
    (tmp_path / "iam.py").write_text(
        "from cloudq import CloudQ\n"
        f"app = CloudQ({app.name!r}, broker={app.conf.broker!r}, backend={app.conf.backend!r})\n"
        "@app.task(name='work')\ndef work(how, number=0): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CLOUDQ_APP", "iam:app")
    work = app.tasks["work"]
    results = app.publish(work.prepare("x", n) for n in range(3))
    for delivery in take(app.broker.driver, 3):
        app.broker.driver.dead_letter([delivery], reason="never")
    app.publish([work.prepare("x", 4)])
    calls.made.clear()
    for line in (
        "queues stats default",
        "queues peek default",
        "dead list default",
        "dead redrive default --all --yes",
        "dead purge default --yes",
        f"result {results[0].id}",
        f"control revoke {results[1].id}",
        "inspect ping",
        "tasks list",
        "doctor",
        "queues purge default --yes",
    ):
        assert main(line.split()) in (0, 1), line
    meet_an_expired_item(app)
    policy = document(statements(stand.plan, "operator"), PLACE)
    assert refused(calls.made, policy) == []
    assert actions(granted(policy)) - actions(calls.made) - DEPLOYED == set()


def test_who_applies_schedules_may_do_that_and_no_more(
    stand: Stand, calls: Calls, aws: Endpoint
) -> None:
    app = stand.app
    app.add_periodic_task(every(300), app.tasks["work"].s("x"), name="often")
    app.add_periodic_task(every(600), app.tasks["work"].s("x"), name="seldom")
    plan = plan_of(app, "iam:app", AwsOptions())
    url = scheduler_url(plan, PLACE)
    assert url is not None
    assert plan.scheduling is not None
    driver = open_scheduler(parse(f"{url}&endpoint_url={aws.url}"))
    # The stack has the group; the operator who applies it may not make one.
    tags = [{"Key": "cloudq:app", "Value": app.name}]
    driver.client.create_schedule_group(Name=plan.scheduling.group, Tags=tags)
    calls.made.clear()
    with closing(driver):
        cloud = Scheduler(app.schedules, driver, url="eventbridge://")
        cloud.apply(cloud.plan())
        app.schedules.pause("often")
        cloud.apply(cloud.plan())
        app.schedules.resume("often")
        calls.made -= {call for call in calls.made if call[0] in PAUSING}
        driver.delete(plan.scheduling.group, "seldom")
        assert [step.name for step in cloud.plan().steps] == ["often", "seldom"]
    policy = document(statements(plan, "planner"), PLACE)
    assert refused(calls.made, policy) == []
    assert actions(granted(policy)) - actions(calls.made) == set()


def test_who_calls_for_far_times_may_do_that_and_no_more(
    stand: Stand, calls: Calls, aws: Endpoint
) -> None:
    conf = stand.app.conf
    settings: dict[str, Any] = {"broker": conf.broker, "backend": conf.backend}

    def app_with_eta(url: str) -> CloudQ:
        app = CloudQ(stand.app.name, scheduler=url, scheduler_eta=HOUR, **settings)
        app.task(name="work")(lambda how, number=0: None)
        return app

    plan = plan_of(app_with_eta("eventbridge://"), "iam:app", AwsOptions())
    url = scheduler_url(plan, PLACE)
    with app_with_eta(f"{url}&endpoint_url={aws.url}") as app:
        calls.made.clear()
        made = app.tasks["work"].apply_async(("x",), countdown=48 * HOUR)
        sent = calls.take()
        made.revoke()
        revoked = calls.take()
    for role in ("producer", "worker"):
        policy = document(statements(plan, role), PLACE)
        assert refused(sent | revoked, policy) == []
    more = granted(document(statements(plan, "producer"), PLACE))
    more -= granted(document(statements(stand.plan, "producer"), PLACE))
    assert {one for one in actions(more) if one.startswith("scheduler:")} == {
        one for one in actions(sent | revoked) if one.startswith("scheduler:")
    }
    assert "iam:PassRole" in actions(sent) & actions(more)
    assert refused(revoked, document(statements(plan, "operator"), PLACE)) == []


HOUR = 3600
# What `schedules pause` calls, as an operator: the store is theirs.
PAUSING = ("dynamodb:UpdateItem", "dynamodb:PutItem", "dynamodb:BatchGetItem", "dynamodb:GetItem")


def test_the_scheduler_may_send_where_its_entries_go_and_no_more() -> None:
    """The calls are EventBridge Scheduler's own; their resources are the entries' targets."""
    plan = rich()
    resources = cloudformation.template(plan)["Resources"].values()
    targets = [
        each["Properties"]["Target"]
        for each in resources
        if each["Type"] == "AWS::Scheduler::Schedule"
    ]
    assert len(targets) == len(plan.schedules)
    sent = {target["Arn"]["Fn::GetAtt"][0] for target in targets}
    lost = {target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0] for target in targets}
    assert (sent, lost) == ({"MailQueue"}, {"Undelivered"})
    pairs = granted(document(statements(plan, "scheduler"), PLACE))
    # Far calls go to whatever queue.
    names = {"shop-mail", "shop-default", "shop-schedules-undelivered"}
    assert pairs == {("sqs:SendMessage", f"arn:aws:sqs:{REGION}:{ACCOUNT}:{n}") for n in names}


def rich() -> Plan:
    url = f"eventbridge://eu-west-1?role=arn:aws:iam::{ACCOUNT}:role/scheduler"
    app = CloudQ("shop", scheduler=url, scheduler_eta=3600)
    app.task(name="a", queue="mail", provisioned=1)(lambda: None)
    app.task(name="b")(lambda: None)
    entry = Schedule(name="nightly", expression="rate(1 hour)", queue="mail", input="{}")
    return plan_of(app, "shop:app", AwsOptions(region="eu-west-1", tracing="Active"), [entry])


def every_policy() -> dict[str, dict[str, Any]]:
    plan = rich()
    roles: tuple[Role, ...] = ("producer", "worker", "scheduler", "planner", "operator")
    made = {role: document(statements(plan, role), PLACE) for role in roles}
    made["deployer"] = document(deployer(plan, "cloudq-deploy"), PLACE)
    return made | {each.name: document(of_function(plan, each), PLACE) for each in plan.functions}


# Every ARN with a wildcard in any policy, and why it cannot be narrower. Of the account 0...0.
HERE = f"{REGION}:{ACCOUNT}"
WILDCARDS = {
    # CloudFormation adds an id of its own to a stack's name.
    f"arn:aws:cloudformation:{HERE}:stack/shop/*": {"operator", "deployer"},
    # A log group in a policy is its streams; Lambda names these.
    f"arn:aws:logs:{HERE}:log-group:/aws/lambda/shop-mail:*": {
        "operator",
        "deployer",
        "shop-mail",
    },
    f"arn:aws:logs:{HERE}:log-group:/aws/lambda/shop-default:*": {
        "operator",
        "deployer",
        "shop-default",
    },
    # Lambda makes up the ids of mappings; the condition is on the functions that they feed.
    f"arn:aws:lambda:{HERE}:event-source-mapping:*": {"deployer"},
    # Versions are numbers that Lambda counts up; only of functions that are kept warm.
    f"arn:aws:lambda:{HERE}:function:shop-mail:*": {"deployer"},
    # Digests of code, and times of releases, below the stack's own prefix.
    "arn:aws:s3:::cloudq-deploy/shop/*": {"deployer"},
    # EventBridge Scheduler has no rights on single schedules; those of earlier code go, too.
    f"arn:aws:scheduler:{HERE}:schedule/cloudq-shop/*": {"deployer", "planner"},
    # Entries of one-time schedules are named by the ids of calls.
    f"arn:aws:scheduler:{HERE}:schedule/cloudq-shop.eta/*": {
        "producer",
        "worker",
        "operator",
        "shop-mail",
        "shop-default",
    },
    # A listing, also of one group, is authorized on just this.
    f"arn:aws:scheduler:{HERE}:schedule/*/*": {"planner"},
}


@pytest.mark.parametrize("role", every_policy())
def test_no_policy_has_a_wildcard_that_could_be_a_name(role: str) -> None:
    found: set[str] = set()
    for statement in every_policy()[role]["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
        assert all(arn.startswith("arn:aws:") for arn in statement["Resource"])
        found |= {arn for arn in statement["Resource"] if "*" in arn}
        assert "*" not in json.dumps(statement.get("Condition", {}))
    assert found == {arn for arn, roles in WILDCARDS.items() if role in roles}


def test_mappings_are_bounded_by_their_functions() -> None:
    plan = rich()
    functions = [f"arn:aws:lambda:{HERE}:function:{name}" for name in ("shop-default", "shop-mail")]
    bounds = {"ArnEquals": {"lambda:FunctionArn": [*functions, f"{functions[1]}:live"]}}
    [feeds] = [s for s in every_policy()["deployer"]["Statement"] if s["Sid"] == "Feeds"]
    assert feeds["Condition"] == bounds
    # The one right without a resource is given to whoever asks for it, and under that condition.
    more = document(unscoped_part(plan), PLACE)["Statement"]
    assert [(each["Action"], each["Resource"]) for each in more] == [
        (["lambda:CreateEventSourceMapping"], ["*"])
    ]
    assert more[0]["Condition"] == bounds


def test_roles_of_services_are_for_this_account_alone() -> None:
    [function] = trust("lambda.amazonaws.com", PLACE)["Statement"]
    assert function["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    [firing] = trust("scheduler.amazonaws.com", PLACE, schedule_groups(rich()))["Statement"]
    # "Do not scope it to a schedule": the user guide on confused deputies.
    assert firing["Condition"]["StringEquals"] == {
        "aws:SourceAccount": ACCOUNT,
        "aws:SourceArn": [
            f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule-group/{group}"
            for group in ("cloudq-shop", "cloudq-shop.eta")
        ],
    }


def test_roles_are_passed_to_their_service_alone() -> None:
    passing = [
        each
        for each in every_policy()["deployer"]["Statement"]
        if each["Action"] == ["iam:PassRole"]
    ]
    assert [each["Condition"]["StringEquals"]["iam:PassedToService"] for each in passing] == [
        "lambda.amazonaws.com",
        "scheduler.amazonaws.com",
    ]


BOUND = f"arn:aws:iam::{ACCOUNT}:policy/bound"
GIVING = {
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
}


def test_under_a_boundary_a_deployer_gives_rights_to_bounded_roles_alone() -> None:
    plan = replace(rich(), permissions_boundary=BOUND)
    found: set[str] = set()
    for each in document(deployer(plan, "cloudq-deploy"), PLACE)["Statement"]:
        given = GIVING & {*each["Action"]}
        if given:
            assert each["Condition"]["StringEquals"]["iam:PermissionsBoundary"] == BOUND
            found |= given
        # Who may take a boundary away has no boundary.
        assert "iam:DeleteRolePermissionsBoundary" not in each["Action"]
    assert found == GIVING
    unbound = granted(every_policy()["deployer"])
    assert granted(document(deployer(plan, "cloudq-deploy"), PLACE)) - unbound == {
        ("iam:PutRolePermissionsBoundary", f"arn:aws:iam::{ACCOUNT}:role/{role}")
        for role in ("shop-default-eu-west-1", "shop-mail-eu-west-1", "shop-scheduler-eu-west-1")
    }


def test_a_boundary_is_on_every_role_of_template_and_terraform() -> None:
    plan = replace(rich(), permissions_boundary=BOUND)
    made = cloudformation.template(plan)["Resources"].values()
    roles = [each["Properties"] for each in made if each["Type"] == "AWS::IAM::Role"]
    assert len(roles) == 3
    assert all(each["PermissionsBoundary"] == BOUND for each in roles)
    written = terraform.configuration(plan)["resource"]["aws_iam_role"]
    assert len(written) == 3
    assert all(each["permissions_boundary"] == BOUND for each in written.values())
    assert "ermissions" not in json.dumps(cloudformation.template(rich())["Resources"])


def test_a_boundary_is_the_arn_of_a_policy() -> None:
    for wrong in ("bound", "arn:aws:iam::1:policy/x", f"arn:aws:iam::{ACCOUNT}:role/x"):
        with pytest.raises(ValidationError, match="permissions_boundary"):
            AwsOptions(permissions_boundary=wrong)
    assert AwsOptions(permissions_boundary=BOUND).permissions_boundary == BOUND


def test_a_function_consumes_its_own_queue_only() -> None:
    plan = rich()
    mail = next(each for each in plan.functions if each.name == "shop-mail")
    pairs = granted(document(of_function(plan, mail), PLACE))
    consumed = {arn.rpartition(":")[2] for action, arn in pairs if action == "sqs:ReceiveMessage"}
    sent = {arn.rpartition(":")[2] for action, arn in pairs if action == "sqs:SendMessage"}
    assert consumed == {"shop-mail"}
    assert sent == {"shop-mail", "shop-default", "shop-mail-dead"}


def test_the_page_on_aws_has_the_very_policies() -> None:
    app = CloudQ("shop", broker="sqs://eu-west-1", backend="dynamodb://cloudq")
    app.task(name="a")(lambda: None)
    plan = plan_of(app, "shop:app", AwsOptions())
    place = Place(region="REGION", account="ACCOUNT")
    shown = [json.loads(block.text) for block in section(AWS_PAGE, "Rights")]
    roles: tuple[Role, ...] = ("producer", "worker")
    assert shown == [document(statements(plan, role), place) for role in roles]


@pytest.mark.usefixtures("fresh_modules")
def test_the_command_prints_a_policy(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for role in ("producer", "worker", "operator", "deployer"):
        assert (
            main(
                [
                    "deploy",
                    "iam",
                    "-A",
                    "shop.tasks:app",
                    "--role",
                    role,
                    "--account",
                    "123456789012",
                ]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out)["Statement"]
    assert main(["deploy", "iam", "-A", "shop.tasks:app", "--account", "12"]) == 2
    assert "twelve digits" in capsys.readouterr().err
