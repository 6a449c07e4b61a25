"""Each policy against the calls that the code makes: all of them allowed, and nothing else granted.

The calls are recorded from botocore while drills run on a local AWS. What Lambda's own poller and
CloudFormation call is not ours to record; those actions are named here, from AWS's documentation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pytest
from botocore import handlers

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.driver import Change, Item, Key, StoreAdmin
from cloudq.errors import Reject
from cloudq.testing import eventually
from cloudq_aws import lambda_handler
from cloudq_deploy.deployer import deployer
from cloudq_deploy.plan import Plan, Schedule
from cloudq_deploy.planning import plan_of
from cloudq_deploy.policies import (
    Place,
    document,
    of_function,
    schedule_source,
    statements,
    trust,
)
from cloudq_deploy.target import Target
from localstack.servers import Endpoint
from tests.lambda_.events import EventSource
from tests.servers import unique

ACCOUNT, REGION = "000000000000", "us-east-1"
PLACE = Place(region=REGION, account=ACCOUNT)
# "Lambda polls with the function's role": receive, delete, attributes (Lambda's guide on SQS).
POLLER = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
LOGGER = {"logs:CreateLogStream", "logs:PutLogEvents"}
# IAM has no actions of batches.
BATCHES = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}

Granted = set[tuple[str, str]]


@dataclass
class Calls:
    """The (action, ARN) pairs of all calls since it was last cleared."""

    made: Granted = field(default_factory=set[tuple[str, str]])

    def __call__(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        service = model.service_model.endpoint_prefix
        action = f"{service}:{BATCHES.get(model.name, model.name)}"
        for arn in self._arns(service, params):
            self.made.add((action, arn))

    def _arns(self, service: str, params: dict[str, Any]) -> list[str]:
        if service == "sqs":
            name = params.get("QueueName") or params.get("QueueUrl", "/?").rpartition("/")[2]
            return [f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"]
        tables = [params["TableName"]] if "TableName" in params else [*params["RequestItems"]]
        return [f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table}" for table in tables]


@pytest.fixture
def calls() -> Iterator[Calls]:
    """Records the calls of every client that is made in the test."""
    recorder = Calls()
    entry = ("before-parameter-build", recorder)
    handlers.BUILTIN_HANDLERS.append(entry)
    yield recorder
    handlers.BUILTIN_HANDLERS.remove(entry)


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

    plan = plan_of(app, "iam:app", Target())
    for queue in plan.queues:
        app.broker.admin.create(queue.name, lease=30, max_deliveries=20)
    assert app.backend is not None
    assert isinstance(app.backend.driver, StoreAdmin)
    app.backend.driver.create_store()
    made = Stand(app, plan, EventSource(app, plan.queues[0].full_name))
    with app:
        yield made


def granted(policy: dict[str, Any]) -> Granted:
    return {
        (action, arn)
        for statement in policy["Statement"]
        for action in statement["Action"]
        for arn in statement["Resource"]
    }


def allowed(call: tuple[str, str], policy: dict[str, Any]) -> bool:
    return any(call[0] == action and fnmatchcase(call[1], arn) for action, arn in granted(policy))


def actions(pairs: Granted, service: str = "") -> set[str]:
    return {action for action, _ in pairs if action.startswith(service)}


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
    assert [call for call in calls.made if not allowed(call, policy)] == []
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
    assert [call for call in calls.made if not allowed(call, policy)] == []
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
    assert [call for call in calls.made if not allowed(call, policy)] == []
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


def rich() -> Plan:
    app = CloudQ("shop")
    app.task(name="a", queue="mail", provisioned=1)(lambda: None)
    app.task(name="b")(lambda: None)
    entry = Schedule(name="nightly", expression="rate(1 hour)", queue="mail", input="{}")
    return plan_of(app, "shop:app", Target(region="eu-west-1", tracing="Active"), [entry])


def every_policy() -> dict[str, dict[str, Any]]:
    plan = rich()
    roles = ("producer", "worker", "scheduler", "operator")
    made = {role: document(statements(plan, role), PLACE) for role in roles}
    made["deployer"] = document(deployer(plan, "cloudq-deploy"), PLACE)
    return made | {each.name: document(of_function(plan, each), PLACE) for each in plan.functions}


# ARNs of which AWS makes up the end: ids of stacks and mappings, streams, versions, objects.
MADE_UP = (
    ":log-group:/aws/lambda/",
    ":stack/shop/",
    ":event-source-mapping:",
    "function:shop-mail:",
    "cloudq-deploy/shop/",
)


@pytest.mark.parametrize("role", every_policy())
def test_no_policy_has_a_wildcard_that_could_be_a_name(role: str) -> None:
    for statement in every_policy()[role]["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
        for arn in statement["Resource"]:
            assert arn.startswith("arn:aws:")
            if "*" in arn:
                assert arn.count("*") == 1
                assert arn.endswith("*")
                assert any(part in arn for part in MADE_UP), arn


def test_roles_of_services_are_for_this_account_alone() -> None:
    [function] = trust("lambda.amazonaws.com", PLACE)["Statement"]
    assert function["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    [firing] = trust("scheduler.amazonaws.com", PLACE, schedule_source(rich()))["Statement"]
    assert firing["Condition"]["ArnLike"] == {
        "aws:SourceArn": f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/shop/*"
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


def test_a_function_consumes_its_own_queue_only() -> None:
    plan = rich()
    mail = next(each for each in plan.functions if each.name == "shop-mail")
    pairs = granted(document(of_function(plan, mail), PLACE))
    consumed = {arn.rpartition(":")[2] for action, arn in pairs if action == "sqs:ReceiveMessage"}
    sent = {arn.rpartition(":")[2] for action, arn in pairs if action == "sqs:SendMessage"}
    assert consumed == {"shop-mail"}
    assert sent == {"shop-mail", "shop-default", "shop-mail-dead"}


@pytest.mark.usefixtures("fresh_modules")
def test_the_command_prints_a_policy(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for role in ("producer", "worker", "scheduler", "operator", "deployer"):
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
