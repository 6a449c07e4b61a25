"""The least rights that each role needs, on the ARNs of the plan's own resources.

An ARN has `*` only where AWS makes up the rest, such as the streams of a log group or the id of a
stack; the tests list these, each with its reason. No action has a wildcard, and no policy is on
all resources unless that is asked for (`iam_deployer.unscoped_part`). The tests record the calls
that the code makes and compare them with the policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cloudq_deploy.aws.plan import UNDELIVERED, Function, Plan, Queue

Role = Literal["producer", "worker", "scheduler", "planner", "operator"]
ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}
"""The roles that `statements` knows, by name."""

Document = dict[str, Any]

_VERSION = "2012-10-17"
# Results and claims; PutItem replaces a claim that has expired.
_RESULTS = (
    "dynamodb:BatchGetItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
)
# A worker checks at its start that the table exists.
_CHECKING = "dynamodb:GetItem"
# Workers list delayed messages, operators what was recorded.
_LISTING = "dynamodb:Query"
# IAM has no batch actions of SQS: SendMessage covers SendMessageBatch.
_SENDING = ("sqs:GetQueueUrl", "sqs:SendMessage")
_CONSUMING = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
)
# Without the right to list, S3 answers 403 in place of 404 for a payload that is gone.
_PAYLOADS = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject")
_PAYLOADS_THERE = "s3:ListBucket"
_ENCRYPTING = ("kms:Decrypt", "kms:GenerateDataKey")
_LOGGING = ("logs:CreateLogStream", "logs:PutLogEvents")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Partition, region and account of ARNs; a template has references in their place."""

    partition: str = "aws"
    region: str
    account: str


@dataclass(frozen=True, slots=True)
class Arn:
    """The name of a resource. S3's have no region and no account, IAM's no region.

    `account` overrides the plan's own: `aws` is that of AWS's own policies; so does `region`.
    """

    service: str
    resource: str
    account: str | None = None
    region: str | None = None

    def at(self, place: Place) -> str:
        """Write the ARN as text."""
        if self == ALL:
            return "*"
        region = "" if self.service in ("iam", "s3") else self.region or place.region
        account = "" if self.service == "s3" else self.account or place.account
        return f"arn:{place.partition}:{self.service}:{region}:{account}:{self.resource}"


ALL = Arn("*", "*")
"""All resources, for an action that AWS cannot limit to a resource."""

XRAY = Arn("iam", "policy/AWSXRayDaemonWriteAccess", account="aws")
"""AWS's own policy for traces."""

Condition = Mapping[str, Mapping[str, "Arn | str | Sequence[Arn]"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Actions that are allowed on resources. The values of `condition` are ARNs or strings."""

    sid: str
    actions: Sequence[str]
    resources: Sequence[Arn]
    condition: Condition = field(default_factory=dict[str, Mapping[str, Any]])


def document(statements: Iterable[Statement], place: Place) -> Document:
    """Write the policy document for IAM; leaves out statements without resources."""
    return {
        "Version": _VERSION,
        "Statement": [_rendered(each, place) for each in statements if each.resources],
    }


def _rendered(statement: Statement, place: Place) -> Document:
    made: Document = {
        "Sid": statement.sid,
        "Effect": "Allow",
        "Action": sorted(statement.actions),
        "Resource": [arn.at(place) for arn in statement.resources],
    }
    if statement.condition:
        made["Condition"] = {
            operator: {key: _value(value, place) for key, value in values.items()}
            for operator, values in statement.condition.items()
        }
    return made


def _value(value: Arn | str | Sequence[Arn], place: Place) -> str | list[str]:
    if isinstance(value, str):
        return value
    return value.at(place) if isinstance(value, Arn) else [each.at(place) for each in value]


def trust(service: str, place: Place, sources: Sequence[Arn] = ()) -> Document:
    """Write a trust policy: a service may take the role, for this account (and `sources`) only."""
    condition: Document = {"StringEquals": {"aws:SourceAccount": place.account}}
    if sources:
        found = [source.at(place) for source in sources]
        condition["StringEquals"]["aws:SourceArn"] = found[0] if len(found) == 1 else found
    return {
        "Version": _VERSION,
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": service},
                "Action": "sts:AssumeRole",
                "Condition": condition,
            }
        ],
    }


def statements(plan: Plan, role: Role) -> list[Statement]:
    """The rights of a role on the whole plan; those of a deployer are in `iam_deployer`."""
    if role == "producer":
        return [_send(plan.queues), *_used(plan), *_one_time_calls(plan)]
    if role == "worker":
        return [*_worker(plan, plan.queues), _look(plan, _CHECKING, _LISTING)]
    if role == "scheduler":
        return _scheduler(plan)
    if role == "planner":
        return _planner(plan)
    return _operator(plan)


def of_function(plan: Plan, function: Function) -> list[Statement]:
    """The rights of a function: consume its own queues, send to all, write its log."""
    log = Arn("logs", f"log-group:{function.log_group}:*")
    logging = Statement(sid="Log", actions=_LOGGING, resources=[log])
    return [*_worker(plan, plan.fed(function)), logging]


def _worker(plan: Plan, queues: Sequence[Queue]) -> list[Statement]:
    consume = Statement(sid="Consume", actions=_CONSUMING, resources=_arns(queues))
    dead = Statement(sid="DeadLetter", actions=_SENDING, resources=_dead_arns(queues))
    return [
        _send(plan.queues),
        consume,
        dead,
        *_used(plan),
        *_one_time_calls(plan),
    ]


def _send(queues: Sequence[Queue]) -> Statement:
    return Statement(sid="Send", actions=_SENDING, resources=_arns(queues))


def _results(plan: Plan) -> list[Statement]:
    return [Statement(sid="Results", actions=_RESULTS, resources=_table(plan)), *_keys(plan)]


def _used(plan: Plan) -> list[Statement]:
    """All that an app has beside its queues: results, large payloads, keys."""
    return [*_results(plan), *_payloads(plan), *_messages_keys(plan)]


def _payloads(plan: Plan) -> list[Statement]:
    if plan.payloads is None:
        return []
    bucket = plan.payloads.bucket
    objects = [Arn("s3", f"{bucket}/{plan.payloads.prefix}*")]
    return [
        Statement(sid="Payloads", actions=_PAYLOADS, resources=objects),
        Statement(sid="PayloadsThere", actions=[_PAYLOADS_THERE], resources=[Arn("s3", bucket)]),
    ]


def _look(plan: Plan, *actions: str) -> Statement:
    return Statement(sid="Look", actions=actions, resources=_table(plan))


def _keys(plan: Plan) -> list[Statement]:
    # Sending to an encrypted queue needs rights on its key.
    key = next((queue.kms_key for queue in plan.queues if queue.kms_key), None)
    if key is None:
        return []
    *_, resource = key.split(":", 5)
    return [Statement(sid="Encryption", actions=_ENCRYPTING, resources=[Arn("kms", resource)])]


def _messages_keys(plan: Plan) -> list[Statement]:
    """Use the keys that messages are encrypted with; one that has an alias, by that alone."""
    named = [each for each in plan.encryption_keys if not each.by_alias]
    found = [Arn("kms", each.name, each.account, each.region) for each in named]
    made = [Statement(sid="Keys", actions=_ENCRYPTING, resources=found)]
    for number, each in enumerate((e for e in plan.encryption_keys if e.by_alias), start=1):
        made.append(
            Statement(
                sid=f"KeyOfAlias{number}",
                actions=_ENCRYPTING,
                # KMS makes up the id, and knows no rights on an alias.
                resources=[Arn("kms", "key/*", each.account, each.region)],
                condition={"ForAnyValue:StringEquals": {"kms:ResourceAliases": each.name}},
            )
        )
    return made


def _scheduler(plan: Plan) -> list[Statement]:
    scheduled = {schedule.queue for schedule in plan.schedules}
    one_time = plan.scheduling is not None and plan.scheduling.one_time_group is not None
    # FIFO queues cannot delay single messages: their long-delayed calls wait in the store.
    queues = [
        queue for queue in plan.queues if queue.name in scheduled or (one_time and not queue.fifo)
    ]
    dead = [Arn("sqs", plan.scheduling.dead_name)] if plan.scheduling else []
    return [
        Statement(sid="Fire", actions=["sqs:SendMessage"], resources=[*_arns(queues), *dead]),
        *_keys(plan),
    ]


_PLANNING = (
    "scheduler:CreateSchedule",
    "scheduler:DeleteSchedule",
    "scheduler:GetSchedule",
    "scheduler:UpdateSchedule",
)


# The tags of a group tell its owner.
_OWNER = ("scheduler:GetScheduleGroup", "scheduler:ListTagsForResource")
_TO_SCHEDULER = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}


def _one_time_calls(plan: Plan) -> list[Statement]:
    """A long-delayed call makes an entry, the first one also its group; a revoke deletes it."""
    if plan.scheduling is None or plan.scheduling.one_time_group is None:
        return []
    made = ("scheduler:CreateScheduleGroup", "scheduler:TagResource")
    role = [Arn("iam", f"role/{plan.scheduling.role}")]
    queues = [queue for queue in plan.queues if not queue.fifo]
    return [
        Statement(
            sid="FarCalls",
            actions=("scheduler:CreateSchedule", "scheduler:DeleteSchedule"),
            resources=[_one_time_entries(plan.scheduling.one_time_group)],
        ),
        Statement(sid="FarGroup", actions=made, resources=[_group(plan.scheduling.one_time_group)]),
        Statement(sid="Pass", actions=["iam:PassRole"], resources=role, condition=_TO_SCHEDULER),
        Statement(sid="FindQueues", actions=["sqs:GetQueueAttributes"], resources=_arns(queues)),
    ]


def _one_time_entries(group: str) -> Arn:
    # An entry's name contains the id of its call.
    return Arn("scheduler", f"schedule/{group}/*")


def _group(name: str) -> Arn:
    return Arn("scheduler", f"schedule-group/{name}")


def _planner(plan: Plan) -> list[Statement]:
    """The rights for `cloudq schedules plan` and `apply`, on the group that the stack made."""
    if plan.scheduling is None:
        return []
    scheduled = {schedule.queue for schedule in plan.schedules}
    queues = [queue for queue in plan.queues if queue.name in scheduled]
    # AWS's guide: rights are on all schedules of a group, not on single ones.
    entries = [Arn("scheduler", f"schedule/{plan.scheduling.group}/*")]
    # A listing is authorized on all schedules, even one of a single group.
    listed = [Arn("scheduler", "schedule/*/*")]
    role = [Arn("iam", f"role/{plan.scheduling.role}")]
    group = [_group(plan.scheduling.group)]
    finding = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl")
    return [
        Statement(sid="Schedules", actions=_PLANNING, resources=entries),
        Statement(sid="List", actions=["scheduler:ListSchedules"], resources=listed),
        Statement(sid="Group", actions=_OWNER, resources=group),
        Statement(sid="Pass", actions=["iam:PassRole"], resources=role, condition=_TO_SCHEDULER),
        Statement(sid="FindQueues", actions=finding, resources=_arns(queues)),
        # Schedules made at run time, and pauses, are in the table.
        Statement(sid="Kept", actions=[_LISTING], resources=_table(plan)),
    ]


def schedule_group(plan: Plan) -> Arn:
    """The group of this stack's schedules."""
    assert plan.scheduling is not None
    return _group(plan.scheduling.group)


def schedule_groups(plan: Plan) -> list[Arn]:
    """The groups that EventBridge Scheduler may act for: the stack's, and of long-delayed calls.

    The user guide's page on confused deputies asks for ARNs of groups, not of schedules.
    """
    group = plan.scheduling.one_time_group if plan.scheduling else None
    return [schedule_group(plan), *([_group(group)] if group else [])]


def scheduler_url(plan: Plan, place: Place) -> str | None:
    """The value of `CLOUDQ_SCHEDULER` with which `cloudq schedules` finds the stack's entries."""
    scheduling = plan.scheduling
    if scheduling is None:
        return None
    role = Arn("iam", f"role/{scheduling.role}").at(place)
    dead = Arn("sqs", scheduling.dead_name).at(place)
    prefix = scheduling.dead_name.removesuffix(UNDELIVERED)
    parts = [f"role={role}", f"dead={dead}"]
    parts += [f"prefix={prefix}"] if prefix else []
    parts += [f"group={scheduling.group}"] if plan.stack != plan.app else []
    return f"eventbridge://{plan.region}?{'&'.join(parts)}"


def _operator(plan: Plan) -> list[Statement]:
    both = [*_arns(plan.queues), *_dead_arns(plan.queues)]
    handle = (*_CONSUMING, *_SENDING, "sqs:PurgeQueue")
    logs = [Arn("logs", f"log-group:{each.log_group}:*") for each in plan.functions]
    functions = [Arn("lambda", f"function:{each.name}") for each in plan.functions]
    stack = [Arn("cloudformation", f"stack/{plan.stack}/*")]
    look = ("cloudformation:DescribeStacks", "cloudformation:ListStackResources")
    lost = [Arn("sqs", plan.scheduling.dead_name)] if plan.scheduling else []
    entries = (
        [_one_time_entries(plan.scheduling.one_time_group)]
        if plan.scheduling and plan.scheduling.one_time_group
        else []
    )
    return [
        Statement(sid="Queues", actions=handle, resources=[*both, *lost]),
        Statement(sid="Revoke", actions=["scheduler:DeleteSchedule"], resources=entries),
        *_used(plan),
        _look(plan, _LISTING),
        Statement(sid="Logs", actions=["logs:FilterLogEvents"], resources=logs),
        Statement(sid="Functions", actions=["lambda:InvokeFunction"], resources=functions),
        Statement(sid="Stack", actions=look, resources=stack),
    ]


def _arns(queues: Iterable[Queue]) -> list[Arn]:
    return [Arn("sqs", queue.full_name) for queue in queues]


def _dead_arns(queues: Iterable[Queue]) -> list[Arn]:
    return [Arn("sqs", queue.dead_name) for queue in queues]


def _table(plan: Plan) -> list[Arn]:
    return [Arn("dynamodb", f"table/{plan.table.name}")] if plan.table else []
