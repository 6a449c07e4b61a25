"""From `cloudq init` to `destroy`: the whole loop, by the commands alone, on a local AWS.

Real: the commands, the zip (its very files run, with nothing else beside them), CloudFormation's
change sets, queues, mappings, schedules, dead letters, the table, and the policies: every call of a
function is checked against its role, and what the commands call is recorded and compared with the
deployer's. Stood in for: AWS (ministack, which runs functions in processes, and looks every ten
seconds for what is due). With CLOUDQ_DRILL=full a crontab fires, too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.testing import eventually
from cloudq_deploy.aws.iam import document, statements
from cloudq_deploy.aws.iam_deployer import client_part
from cloudq_deploy.aws.options import read_aws_options
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from localstack.servers import Endpoint
from tests.deploy.recording import (
    ACCOUNT,
    PLACE,
    REGION,
    Calls,
    Granted,
    actions,
    granted,
    recorded,
    refused,
)

pytestmark = [pytest.mark.drill, pytest.mark.usefixtures("fresh_modules")]

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
# ministack asks for actions of batches, which AWS does not have: "sqs:SendMessage" and so on
# cover them there.
MISNAMED = ("sqs:SendMessageBatch", "sqs:DeleteMessageBatch", "sqs:ChangeMessageVisibilityBatch")
# What an operator has for `deploy status`, `logs` and `invoke`; the rest is in test_policies.
WATCHING = {
    "cloudformation:DescribeStacks",
    "cloudformation:ListStackResources",
    "lambda:InvokeFunction",
    "logs:FilterLogEvents",
    "sqs:GetQueueAttributes",
}
SCHEDULES = """

from cloudq import crontab  # noqa: E402

app.add_periodic_task(crontab("{cron}"), add.s(20, 22), name="minutely")
app.add_periodic_task(crontab("0 0 13 * 5"), add.s(1, 1), name="unlucky")
"""
ONCE = """
from datetime import datetime  # noqa: E402

from cloudq import at  # noqa: E402

app.add_periodic_task(at(datetime.fromisoformat("{due}")), greet.s("Cleo"), name="once")
"""


class Laptop:
    """A shell in the project's folder, with what a user exports; its commands run in here."""

    def __init__(
        self,
        folder: Path,
        aws: Endpoint,
        calls: Calls,
        patch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.folder = folder
        self.url = aws.url
        self.calls = calls
        self._patch = patch
        self._capsys = capsys
        self.export("CLOUDQ_APP", "shop.tasks:app")

    def export(self, name: str, value: str) -> None:
        self._patch.setenv(name, value)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command and return what it printed, on standard output and standard error."""
        out, err = self._run(*arguments, code=code)
        return out + err

    def _run(self, *arguments: str, code: int) -> tuple[str, str]:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]
        self._capsys.readouterr()
        self.calls.listens = arguments[0] != "call"  # a task's caller is another role
        done = main(arguments)
        self.calls.listens = False
        out, err = self._capsys.readouterr()
        assert done == code, f"$ cloudq {shlex.join(arguments)}\n{out[-2000:]}{err[-3000:]}"
        return out, err

    def deploy(self, command: str, *arguments: str, code: int = 0) -> str:
        return self.run("deploy", command, *arguments, "--endpoint-url", self.url, code=code)

    def call(self, task: str, *arguments: str, code: int = 0) -> str:
        """Call a task and return its result alone: a slow one has a hint on standard error."""
        return self._run("call", task, *arguments, "--wait", "60", code=code)[0].strip()

    def edit(self, before: str, after: str) -> None:
        """Change the code."""
        tasks = self.folder / "shop" / "tasks.py"
        text = tasks.read_text()
        assert before in text
        tasks.write_text(text.replace(before, after))

    def plan(self) -> Plan:
        """The plan, of which the policies are made."""
        from shop.tasks import app  # type: ignore[import-not-found]

        return plan_of(app, "shop.tasks:app", read_aws_options(self.folder, {"region": REGION}))


@pytest.fixture
def laptop(
    shop: Path,
    guarded_aws: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Laptop]:
    tasks = shop / "shop" / "tasks.py"
    cron = "* * * * *" if FULL else "0 0 1 1 *"
    tasks.write_text(tasks.read_text() + SCHEDULES.format(cron=cron))
    with recorded() as calls:
        yield Laptop(shop, guarded_aws, calls, monkeypatch, capsys)


def client(aws: Endpoint, service: str) -> Any:
    made: Any = boto3.client  # type: ignore[call-overload]
    return made(service, endpoint_url=aws.url)


def test_the_whole_loop(laptop: Laptop, guarded_aws: Endpoint) -> None:
    aws = guarded_aws
    # Without an answer nothing is made, and what was proposed is taken back.
    assert "nothing was changed" in laptop.deploy("apply", "aws", code=2)
    assert leftovers(aws) == {}
    first = laptop.deploy("apply", "aws", "--yes")
    assert "28 to add" in first
    _export(laptop, first)
    assert os.environ["CLOUDQ_BROKER"] == "sqs://us-east-1?prefix=shop-"
    for role in ("shop-mail-us-east-1", "shop-default-us-east-1"):
        _allow_misnamed(aws, role)
    deployed = laptop.calls.take()
    plan = laptop.plan()

    # Tasks called from here run inside the deployed functions; results come through the table.
    assert laptop.call("shop.tasks.add", "2", "3") == "5"
    assert laptop.call("shop.tasks.greet", '"Ada"') == '"Hello, Ada!"'

    # A task that fails for good lands in the dead letters.
    laptop.call("shop.tasks.greet", '""', code=1)
    queue = CloudQ(broker=f"{os.environ['CLOUDQ_BROKER']}&endpoint_url={aws.url}").broker
    eventually(lambda: queue.admin.stats("mail").dead == 1)
    assert "ValueError: nobody to greet" in (queue.admin.peek_dead("mail", count=1)[0].reason or "")

    _schedules_are_the_clouds(laptop, plan)
    deployed |= _looking(laptop, plan)

    # A changed decorator shows a diff, and is refused without an answer; then it is applied.
    laptop.calls.take()
    laptop.edit("memory=256", "memory=384")
    laptop.edit("0 0 13 * 5", "0 0 13 * *")
    shown = laptop.deploy("apply", "aws", code=2)
    assert "MemorySize: 256 -> 384" in shown
    assert "ScheduleExpression: cron(0 0 13 * ? *)" not in shown, "that one stays"
    assert re.search(r"- Scheduler::Schedule +Unlucky2Schedule\n", shown)
    assert "nothing was changed" in shown
    assert memory(aws, "shop-mail") == 256
    assert "MemorySize: 256 -> 384" in _apply_with_one_that_is_due(laptop, aws)
    assert memory(aws, "shop-mail") == 384
    assert names_of_schedules(aws) == {"once", "minutely", "unlucky"}
    assert laptop.call("shop.tasks.greet", '"Bob"') == '"Hello, Bob!"'
    drifting(laptop, aws)
    _fired(aws)

    # Back to the release before, code and template.
    laptop.deploy("rollback", "--yes")
    assert memory(aws, "shop-mail") == 256
    assert names_of_schedules(aws) == {"minutely", "unlucky", "unlucky-2"}

    # Data outlives the stack, unless it is told to go.
    kept = laptop.deploy("destroy", "--yes")
    assert kept.count("kept ") == 6
    assert "exists already and is not part of this stack" in laptop.deploy("apply", "--yes", code=1)
    adopted = laptop.deploy("apply", "--adopt", "--yes")
    assert "6 to take over" in adopted
    assert queue.admin.stats("mail").dead == 1, "its dead letters are still there"
    laptop.deploy("destroy", "--data", "--yes")
    assert leftovers(aws) == {}

    # All that the commands have called is allowed to a deployer, and a deployer has no more.
    deployed |= laptop.calls.take()
    policy = document(client_part(plan, f"cloudq-deploy-{ACCOUNT}-{REGION}"), PLACE)
    assert refused(deployed, policy) == []
    assert actions(granted(policy)) - actions(deployed) == set()


def _export(laptop: Laptop, printed: str) -> None:
    """Do as `apply` says."""
    for line in printed.splitlines():
        if line.startswith("  export "):
            [assignment] = shlex.split(line.removeprefix("  export "))
            laptop.export(*assignment.split("=", 1))


def _schedules_are_the_clouds(laptop: Laptop, plan: Plan) -> None:
    """`cloudq schedules` finds the stack's entries to be its own; a pause is no change by hand."""
    laptop.calls.take()
    assert "no changes: 3 schedules in cloudq-shop: up to date" in laptop.run("schedules", "plan")
    laptop.run("schedules", "pause", "minutely")
    assert "~ update minutely" in laptop.run("schedules", "apply", "--yes")
    assert "no changes" in laptop.deploy("apply", "aws", "--yes"), "and a second apply has none"
    laptop.run("schedules", "resume", "minutely")
    laptop.calls.take()
    laptop.run("schedules", "apply", "--yes")
    policy = document(statements(plan, "planner"), PLACE)
    assert refused(laptop.calls.take(), policy) == []


def _looking(laptop: Laptop, plan: Plan) -> Granted:
    """`status`, `logs` and `invoke`: what an operator may do of these is what they call."""
    laptop.calls.take()
    assert "shop: CREATE_COMPLETE" in laptop.deploy("status")
    log = laptop.deploy("logs", "--function", "mail", "--grep", "nobody")
    assert "shop-mail: task shop.tasks.greet" in log
    laptop.deploy("invoke", "shop.tasks.greet", "", code=1)
    answer = json.loads(laptop.deploy("invoke", "shop.tasks.add", "4", "5"))
    assert (answer["state"], answer["result"]) == ("SUCCESS", 9)
    made = laptop.calls.take()
    assert refused(made, document(statements(plan, "operator"), PLACE)) == []
    assert actions(made) == WATCHING
    return made


def _apply_with_one_that_is_due(laptop: Laptop, aws: Endpoint) -> str:
    """Apply, with a schedule that is due soon after; what is over by then would not be made."""
    tasks = laptop.folder / "shop" / "tasks.py"
    code = tasks.read_text()
    shown = ""
    for margin in (6, 20, 60):
        due = (datetime.now(UTC) + timedelta(seconds=margin)).replace(microsecond=0, tzinfo=None)
        tasks.write_text(code + ONCE.format(due=due.isoformat()))
        shown += laptop.deploy("apply", "aws", "--yes")
        if "once" in names_of_schedules(aws):
            break
    return shown


def _fired(aws: Endpoint) -> None:
    """Check that the due run ran in a function: its result is in the table, its line logged."""
    items = eventually(lambda: _results(aws, "once@"))
    assert "Hello, Cleo!" in json.dumps(items, default=str)
    if FULL:
        items = eventually(lambda: _results(aws, "minutely@"))
        assert "42" in json.dumps(items, default=str)


def _results(aws: Endpoint, task: str) -> list[Any]:
    items = client(aws, "dynamodb").scan(TableName="shop")["Items"]
    found = [item for item in items if task in json.dumps(item, default=str)]
    return [item for item in found if "SUCCESS" in json.dumps(item, default=str)]


def drifting(laptop: Laptop, aws: Endpoint) -> None:
    """Somebody turns a knob by hand: `status` shows it, and `apply` does not go on."""
    sqs = client(aws, "sqs")
    url = sqs.get_queue_url(QueueName="shop-mail")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "30"})
    assert "VisibilityTimeout is 30" in laptop.deploy("status", "--drift")
    refusal = laptop.deploy("apply", "--yes", code=1)
    assert "was changed by hand: MailQueue.VisibilityTimeout is 30" in refusal
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "180"})


def memory(aws: Endpoint, function: str) -> int:
    reply = client(aws, "lambda").get_function_configuration(FunctionName=function)
    return int(reply["MemorySize"])


def names_of_schedules(aws: Endpoint) -> set[str]:
    found = client(aws, "scheduler").list_schedules(GroupName="cloudq-shop")["Schedules"]
    return {each["Name"] for each in found}


def leftovers(aws: Endpoint) -> dict[str, Any]:
    """All that there is in the account, by service."""
    groups = client(aws, "scheduler").list_schedule_groups()["ScheduleGroups"]
    stacks = client(aws, "cloudformation").describe_stacks()["Stacks"]
    found = {
        "sqs": client(aws, "sqs").list_queues().get("QueueUrls", []),
        "dynamodb": client(aws, "dynamodb").list_tables()["TableNames"],
        "lambda": client(aws, "lambda").list_functions()["Functions"],
        "mappings": client(aws, "lambda").list_event_source_mappings()["EventSourceMappings"],
        "s3": client(aws, "s3").list_buckets()["Buckets"],
        "iam": client(aws, "iam").list_roles()["Roles"],
        "logs": client(aws, "logs").describe_log_groups()["logGroups"],
        "alarms": client(aws, "cloudwatch").describe_alarms()["MetricAlarms"],
        "schedules": client(aws, "scheduler").list_schedules()["Schedules"],
        "schedule groups": [each["Name"] for each in groups if each["Name"] != "default"],
        "stacks": [each for each in stacks if each["StackStatus"] != "DELETE_COMPLETE"],
    }
    return {service: things for service, things in found.items() if things}


def _allow_misnamed(aws: Endpoint, role: str) -> None:
    """Allow the batch forms of just what the role allows, on just the same queues."""
    iam = client(aws, "iam")
    document = iam.get_role_policy(RoleName=role, PolicyName="tasks")["PolicyDocument"]
    allowing = [
        {"Effect": "Allow", "Action": f"{action}Batch", "Resource": each["Resource"]}
        for each in document["Statement"]
        for action in each["Action"]
        if f"{action}Batch" in MISNAMED
    ]
    assert allowing
    more = {"Version": "2012-10-17", "Statement": allowing}
    iam.put_role_policy(RoleName=role, PolicyName="ministack", PolicyDocument=json.dumps(more))
