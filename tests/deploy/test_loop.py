"""From `cloudq init` to `destroy`: the whole loop, by the commands alone, on a local AWS.

Real: the commands, the zip (its very files run, with nothing else beside them), CloudFormation's
change sets, queues, mappings, dead letters, the table, and the policies: every call of a function
is checked against its role. Stood in for: AWS (ministack, which runs functions in processes).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudq import CloudQ
from cloudq.testing import eventually
from localstack.servers import Endpoint

pytestmark = [pytest.mark.drill, pytest.mark.usefixtures("fresh_modules")]

# ministack asks for actions of batches, which AWS does not have: "sqs:SendMessage" and so on
# cover them there.
MISNAMED = ("sqs:SendMessageBatch", "sqs:DeleteMessageBatch", "sqs:ChangeMessageVisibilityBatch")


class Laptop:
    """A shell in the project's folder, with what a user exports."""

    def __init__(self, folder: Path, aws: Endpoint) -> None:
        self.folder = folder
        self.url = aws.url
        self.env = os.environ | {"CLOUDQ_APP": "shop.tasks:app"}

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cloudq", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done

    def deploy(
        self, command: str, *arguments: str, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        return self.run("deploy", command, *arguments, "--endpoint-url", self.url, code=code)

    def call(self, task: str, argument: str, *more: str, code: int = 0) -> str:
        return self.run("call", task, argument, *more, "--wait", "60", code=code).stdout.strip()


def client(aws: Endpoint, service: str) -> Any:
    made: Any = boto3.client  # type: ignore[call-overload]
    return made(service, endpoint_url=aws.url)


def test_the_whole_loop(shop: Path, guarded_aws: Endpoint) -> None:
    aws, laptop = guarded_aws, Laptop(shop, guarded_aws)
    first = laptop.deploy("apply", "aws", "--yes")
    assert "21 to add" in first.stdout
    for line in first.stdout.splitlines():
        if line.startswith("  export "):
            name, _, value = line.removeprefix("  export ").partition("=")
            laptop.env[name] = value.strip("'")
    assert laptop.env["CLOUDQ_BROKER"] == "sqs://us-east-1?prefix=shop-"
    _allow_misnamed(aws, "shop-mail-us-east-1")

    # Tasks called from here run inside the deployed functions; results come through the table.
    assert laptop.call("shop.tasks.add", "2", "3") == "5"
    assert laptop.call("shop.tasks.greet", '"Ada"') == '"Hello, Ada!"'
    answer = json.loads(laptop.deploy("invoke", "shop.tasks.add", "4", "5").stdout)
    assert (answer["state"], answer["result"]) == ("SUCCESS", 9)

    # A task that fails for good lands in the dead letters.
    laptop.call("shop.tasks.greet", '""', code=1)
    queue = CloudQ(broker=f"{laptop.env['CLOUDQ_BROKER']}&endpoint_url={aws.url}").broker
    eventually(lambda: queue.admin.stats("mail").dead == 1)
    assert "ValueError: nobody to greet" in (queue.admin.peek_dead("mail", count=1)[0].reason or "")

    log = laptop.deploy("logs", "--function", "mail", "--grep", "nobody").stdout
    assert "shop-mail: task shop.tasks.greet" in log

    assert "no changes" in laptop.deploy("apply", "aws", "--yes").stderr

    # A changed decorator shows a diff, and is refused without an answer; then it is applied.
    tasks = shop / "shop" / "tasks.py"
    tasks.write_text(tasks.read_text().replace("memory=256", "memory=384"))
    refused = laptop.deploy("apply", "aws", code=2)
    assert "MemorySize: 256 -> 384" in refused.stdout
    assert "nothing was changed" in refused.stderr
    assert memory(aws, "shop-mail") == 256
    changed = laptop.deploy("apply", "aws", "--yes")
    assert "MemorySize: 256 -> 384" in changed.stdout
    assert memory(aws, "shop-mail") == 384
    assert laptop.call("shop.tasks.greet", '"Bob"') == '"Hello, Bob!"'

    # Back to the release before, code and template.
    laptop.deploy("rollback", "--yes")
    assert memory(aws, "shop-mail") == 256

    drifting(laptop, aws)

    # Data outlives the stack, unless it is told to go.
    kept = laptop.deploy("destroy", "--yes").stdout
    assert kept.count("kept ") == 5
    assert "exists and is no part of this stack" in laptop.deploy("apply", "--yes", code=2).stderr
    adopted = laptop.deploy("apply", "--adopt", "--yes")
    assert "5 to take over" in adopted.stdout
    assert queue.admin.stats("mail").dead == 1, "its dead letters are still there"
    laptop.deploy("destroy", "--data", "--yes")
    assert leftovers(aws) == {}


def drifting(laptop: Laptop, aws: Endpoint) -> None:
    """Somebody turns a knob by hand: `status` shows it, and `apply` does not go on."""
    sqs = client(aws, "sqs")
    url = sqs.get_queue_url(QueueName="shop-mail")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "30"})
    assert "VisibilityTimeout is 30" in laptop.deploy("status", "--drift").stdout
    refused = laptop.deploy("apply", "--yes", code=2).stderr
    assert "was changed by hand: MailQueue.VisibilityTimeout is 30" in refused
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "180"})


def memory(aws: Endpoint, function: str) -> int:
    reply = client(aws, "lambda").get_function_configuration(FunctionName=function)
    return int(reply["MemorySize"])


def leftovers(aws: Endpoint) -> dict[str, Any]:
    """All that there is in the account, by service."""
    found = {
        "sqs": client(aws, "sqs").list_queues().get("QueueUrls", []),
        "dynamodb": client(aws, "dynamodb").list_tables()["TableNames"],
        "lambda": client(aws, "lambda").list_functions()["Functions"],
        "mappings": client(aws, "lambda").list_event_source_mappings()["EventSourceMappings"],
        "s3": client(aws, "s3").list_buckets()["Buckets"],
        "iam": client(aws, "iam").list_roles()["Roles"],
        "logs": client(aws, "logs").describe_log_groups()["logGroups"],
        "alarms": client(aws, "cloudwatch").describe_alarms()["MetricAlarms"],
    }
    return {service: things for service, things in found.items() if things}


def _allow_misnamed(aws: Endpoint, role: str) -> None:
    """Allow the batch forms of just what the role allows, on just the same queues."""
    iam = client(aws, "iam")
    granted = iam.get_role_policy(RoleName=role, PolicyName="tasks")["PolicyDocument"]
    statements = [
        {"Effect": "Allow", "Action": f"{action}Batch", "Resource": each["Resource"]}
        for each in granted["Statement"]
        for action in each["Action"]
        if f"{action}Batch" in MISNAMED
    ]
    assert statements
    document = {"Version": "2012-10-17", "Statement": statements}
    iam.put_role_policy(RoleName=role, PolicyName="ministack", PolicyDocument=json.dumps(document))
