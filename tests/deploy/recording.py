"""Records what the SDK is asked for, as IAM sees it: the action, and the resource."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from botocore import handlers

from cloudq_deploy.aws.iam import Place

ACCOUNT, REGION = "000000000000", "us-east-1"
PLACE = Place(region=REGION, account=ACCOUNT)

Granted = set[tuple[str, str]]

# Where IAM's action has another name than the API's.
_ACTIONS = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:DeleteObjects": "s3:DeleteObject",
    **dict.fromkeys(
        (
            f"s3:{name}"
            for name in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
        ),
        "s3:PutObject",
    ),
    "lambda:Invoke": "lambda:InvokeFunction",
}
# Whoever has credentials may ask whose they are.
_FREE = ("sts:GetCallerIdentity",)
_MADE_UP = "11111111-2222-3333-4444-555555555555"


@dataclass
class Calls:
    """The (action, ARN) pairs of all calls since it was last cleared, while it listens."""

    made: Granted = field(default_factory=set[tuple[str, str]])
    listens: bool = True
    stack: str = ""

    def __call__(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        service = model.service_model.signing_name
        action = f"{service}:{model.name}"
        if action in _FREE or not self.listens:
            return
        for resource in getattr(self, f"_{service}")(model.name, params):
            account = "" if service == "s3" else f"{REGION}:{ACCOUNT}"
            arn = f"arn:aws:{service}:{account or ':'}:{resource}"
            self.made.add((_ACTIONS.get(action, action), arn))

    def take(self) -> Granted:
        """Return what was made so far, and forget it."""
        made, self.made = self.made, set()
        return made

    def _sqs(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        return [params.get("QueueName") or params.get("QueueUrl", "/?").rpartition("/")[2]]

    def _dynamodb(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        tables = [params["TableName"]] if "TableName" in params else [*params["RequestItems"]]
        return [f"table/{table}" for table in tables]

    def _cloudformation(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        # A change set is named by its own ARN, and authorized on its stack.
        self.stack = params.get("StackName", self.stack)
        name = self.stack.split("/")[1] if "/" in self.stack else self.stack
        return [f"stack/{name}/{_MADE_UP}"]

    def _s3(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        if "Delete" in params:
            return [f"{params['Bucket']}/{each['Key']}" for each in params["Delete"]["Objects"]]
        return ["/".join(params[name] for name in ("Bucket", "Key") if name in params)]

    def _kms(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        return [f"key/{params['KeyId']}"]

    def _lambda(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        return [f"function:{params['FunctionName']}"]

    def _logs(self, _: str, params: dict[str, Any]) -> Iterable[str]:
        return [f"log-group:{params['logGroupName']}:log-stream:{_MADE_UP}"]

    def _scheduler(self, name: str, params: dict[str, Any]) -> Iterable[str]:
        if "ScheduleGroup" in name:
            group = f"schedule-group/{params['Name']}"
            if "Tags" in params:
                arn = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:{group}"
                self.made.add(("scheduler:TagResource", arn))
            return [group]
        if "ResourceArn" in params:
            return [params["ResourceArn"].rpartition(":")[2]]
        role = params.get("Target", {}).get("RoleArn")
        if role:
            self.made.add(("iam:PassRole", role))
        # A listing is authorized on everything, also that of one group.
        return [
            f"schedule/{params['GroupName']}/{params['Name']}"
            if "Name" in params
            else "schedule/*/*"
        ]


@contextmanager
def recorded() -> Iterator[Calls]:
    """Records the calls of every client that is made in the block."""
    recorder = Calls()
    entry = ("before-parameter-build", recorder)
    handlers.BUILTIN_HANDLERS.append(entry)
    try:
        yield recorder
    finally:
        handlers.BUILTIN_HANDLERS.remove(entry)


def granted(policy: dict[str, Any]) -> Granted:
    """The (action, ARN pattern) pairs of a policy."""
    return {
        (action, arn)
        for statement in policy["Statement"]
        for action in statement["Action"]
        for arn in statement["Resource"]
    }


def actions(pairs: Granted) -> set[str]:
    """The actions alone."""
    return {action for action, _ in pairs}


def refused(made: Granted, policy: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """The calls that the policy does not allow."""
    pairs = granted(policy)
    return sorted(
        call
        for call in made
        if not any(call[0] == action and fnmatchcase(call[1], arn) for action, arn in pairs)
    )
