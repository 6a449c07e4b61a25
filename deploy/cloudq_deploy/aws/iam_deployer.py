"""The policy of a deployer: rights of `cloudq deploy`, and of CloudFormation on its behalf.

The commands' own calls are recorded by the tests. CloudFormation makes resources with the rights
of its caller, so the policy needs the calls of its resource handlers too. AWS documents these in
the schemas of the resource types; the tests cannot record them.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudq_deploy.aws.iam import ALL, XRAY, Arn, Statement, schedule_group
from cloudq_deploy.aws.plan import Plan

# ---- calls of the commands

_STACK = (
    "cloudformation:CreateChangeSet",
    "cloudformation:DeleteChangeSet",
    "cloudformation:DeleteStack",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStacks",
    "cloudformation:DetectStackResourceDrift",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplate",
    "cloudformation:ListChangeSets",
    "cloudformation:ListStackResources",
)
_LOOK_AT_QUEUES = ("sqs:DeleteQueue", "sqs:GetQueueAttributes", "sqs:GetQueueUrl")
_LOOK_AT_TABLE = ("dynamodb:DeleteTable", "dynamodb:DescribeTable")
_LOOK_AT_FUNCTIONS = ("lambda:GetFunctionConfiguration", "lambda:InvokeFunction")
_LOOK_AT_LOGS = ("logs:DescribeLogStreams", "logs:FilterLogEvents")
_BUCKET = (
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:ListBucket",
    "s3:PutBucketPublicAccessBlock",
)
_PAYLOADS = (
    "s3:CreateBucket",
    "s3:GetLifecycleConfiguration",
    "s3:ListBucket",
    "s3:PutBucketPublicAccessBlock",
    "s3:PutLifecycleConfiguration",
)
_OBJECTS = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")


def deployer(plan: Plan, bucket: str = "", *, unscoped: bool = False) -> list[Statement]:
    """The rights to apply, change, inspect and destroy the plan's stack.

    With `unscoped` also the one right that AWS cannot limit to a resource, see `unscoped_part`.
    """
    more = unscoped_part(plan) if unscoped else []
    return [*client_part(plan, bucket), *cloudformation_part(plan), *more]


def client_part(plan: Plan, bucket: str = "") -> list[Statement]:
    """The rights for the commands' own calls."""
    group = [schedule_group(plan)] if plan.scheduling else []
    objects = [Arn("s3", f"{bucket}/{plan.stack}/*")] if bucket else []
    stack = [Arn("cloudformation", f"stack/{plan.stack}/*")]
    return [
        Statement(sid="Stack", actions=_STACK, resources=stack),
        Statement(sid="LookAtQueues", actions=_LOOK_AT_QUEUES, resources=_queues(plan)),
        Statement(sid="LookAtTable", actions=_LOOK_AT_TABLE, resources=_table(plan)),
        Statement(sid="LookAtFunctions", actions=_LOOK_AT_FUNCTIONS, resources=_functions(plan)),
        Statement(sid="LookAtLogs", actions=_LOOK_AT_LOGS, resources=_logs(plan)),
        Statement(sid="LookAtSchedules", actions=["scheduler:GetScheduleGroup"], resources=group),
        Statement(
            sid="FarCalls",
            actions=["scheduler:DeleteScheduleGroup"],
            resources=_one_time_group(plan),
        ),
        Statement(sid="Bucket", actions=_BUCKET, resources=[Arn("s3", bucket)] if bucket else []),
        Statement(sid="Code", actions=_OBJECTS, resources=objects),
        Statement(sid="Payloads", actions=_PAYLOADS, resources=_payloads(plan)),
    ]


def _one_time_group(plan: Plan) -> list[Arn]:
    group = plan.scheduling.one_time_group if plan.scheduling else None
    return [Arn("scheduler", f"schedule-group/{group}")] if group else []


# ---- calls of CloudFormation

_TAGGED_STACK = ("cloudformation:TagResource", "cloudformation:UntagResource")
_QUEUES = (
    "sqs:CreateQueue",
    "sqs:DeleteQueue",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ListQueueTags",
    "sqs:SetQueueAttributes",
    "sqs:TagQueue",
    "sqs:UntagQueue",
)
_TABLE = (
    "dynamodb:CreateTable",
    "dynamodb:DeleteTable",
    "dynamodb:DescribeContinuousBackups",
    "dynamodb:DescribeTable",
    "dynamodb:DescribeTimeToLive",
    "dynamodb:ListTagsOfResource",
    "dynamodb:TagResource",
    "dynamodb:UntagResource",
    "dynamodb:UpdateTable",
    "dynamodb:UpdateTimeToLive",
)
_FUNCTIONS = (
    "lambda:CreateFunction",
    "lambda:DeleteFunction",
    "lambda:DeleteFunctionConcurrency",
    "lambda:GetFunction",
    "lambda:GetFunctionCodeSigningConfig",
    "lambda:GetFunctionConfiguration",
    "lambda:GetFunctionRecursionConfig",
    "lambda:GetRuntimeManagementConfig",
    "lambda:ListTags",
    "lambda:PutFunctionConcurrency",
    "lambda:PutFunctionRecursionConfig",
    "lambda:TagResource",
    "lambda:UntagResource",
    "lambda:UpdateFunctionCode",
    "lambda:UpdateFunctionConfiguration",
)
_WARM = (
    "lambda:CreateAlias",
    "lambda:DeleteAlias",
    "lambda:DeleteProvisionedConcurrencyConfig",
    "lambda:GetAlias",
    "lambda:GetProvisionedConcurrencyConfig",
    "lambda:ListVersionsByFunction",
    "lambda:PublishVersion",
    "lambda:PutProvisionedConcurrencyConfig",
    "lambda:UpdateAlias",
)
_VERSIONS = ("lambda:GetFunctionConfiguration", "lambda:GetProvisionedConcurrencyConfig")
_FEEDS = (
    "lambda:DeleteEventSourceMapping",
    "lambda:GetEventSourceMapping",
    "lambda:UpdateEventSourceMapping",
)
_FEED_TAGS = ("lambda:ListTags", "lambda:TagResource", "lambda:UntagResource")
# What gives rights to roles. Under a permissions boundary it is allowed for bounded roles only.
_GIVE_RIGHTS = ("iam:CreateRole", "iam:DeleteRolePolicy", "iam:PutRolePolicy")
_ROLES = (
    "iam:DeleteRole",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:ListAttachedRolePolicies",
    "iam:ListRolePolicies",
    "iam:TagRole",
    "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy",
)
_LOGS = (
    "logs:CreateLogGroup",
    "logs:DeleteLogGroup",
    "logs:DeleteRetentionPolicy",
    "logs:ListTagsForResource",
    "logs:PutRetentionPolicy",
    "logs:TagResource",
    "logs:UntagResource",
)
_ALARMS = (
    "cloudwatch:DeleteAlarms",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:ListTagsForResource",
    "cloudwatch:PutMetricAlarm",
    "cloudwatch:TagResource",
    "cloudwatch:UntagResource",
)
_SCHEDULES = (
    "scheduler:CreateSchedule",
    "scheduler:DeleteSchedule",
    "scheduler:GetSchedule",
    "scheduler:UpdateSchedule",
)
_GROUP = (
    "scheduler:CreateScheduleGroup",
    "scheduler:DeleteScheduleGroup",
    "scheduler:GetScheduleGroup",
    "scheduler:ListTagsForResource",
    "scheduler:TagResource",
    "scheduler:UntagResource",
)


def cloudformation_part(plan: Plan) -> list[Statement]:
    """The rights with which CloudFormation makes, changes and deletes the plan's resources."""
    warm = [each for each in plan.functions if each.provisioned]
    versions = [Arn("lambda", f"function:{each.name}:*") for each in warm]
    warmed = [
        Arn("lambda", f"function:{name}") for f in warm for name in (f.name, f"{f.name}:live")
    ]
    stack = [Arn("cloudformation", f"stack/{plan.stack}/*")]
    roles = [Arn("iam", f"role/{each.role}") for each in plan.functions]
    feeds = [Arn("lambda", "event-source-mapping:*")]
    alarms = [Arn("cloudwatch", f"alarm:{alarm.name}") for alarm in plan.alarms]
    # A listing by prefix is authorized on a log group without a name.
    nameless = [Arn("logs", "log-group::log-stream:")]
    return [
        Statement(sid="TagStack", actions=_TAGGED_STACK, resources=stack),
        Statement(sid="Queues", actions=_QUEUES, resources=_queues(plan)),
        Statement(sid="Table", actions=_TABLE, resources=_table(plan)),
        Statement(sid="Functions", actions=_FUNCTIONS, resources=_functions(plan)),
        Statement(sid="Warm", actions=_WARM, resources=warmed),
        Statement(sid="Versions", actions=_VERSIONS, resources=versions),
        Statement(sid="Feeds", actions=_FEEDS, resources=feeds, condition=_own_functions(plan)),
        Statement(sid="FeedTags", actions=_FEED_TAGS, resources=feeds),
        *_roles(plan, "Roles", roles),
        *_tracing(plan),
        _passing("PassRoles", roles, "lambda.amazonaws.com"),
        Statement(sid="Logs", actions=_LOGS, resources=_logs(plan)),
        Statement(sid="ListLogs", actions=["logs:DescribeLogGroups"], resources=nameless),
        Statement(sid="Alarms", actions=_ALARMS, resources=alarms),
        *_scheduling(plan),
    ]


def unscoped_part(plan: Plan) -> list[Statement]:
    """The right to make event source mappings, for the plan's functions only.

    AWS's authorization reference has no resource for it, so only its condition can limit it.
    A deployer without it needs somebody else to make the mappings.
    """
    return [
        Statement(
            sid="MakeFeeds",
            actions=["lambda:CreateEventSourceMapping"],
            resources=[ALL],
            condition=_own_functions(plan),
        )
    ]


def _own_functions(plan: Plan) -> dict[str, dict[str, Sequence[Arn]]]:
    aliases = [Arn("lambda", f"function:{f.name}:live") for f in plan.functions if f.provisioned]
    return {"ArnEquals": {"lambda:FunctionArn": [*_functions(plan), *aliases]}}


def _roles(plan: Plan, sid: str, roles: Sequence[Arn]) -> list[Statement]:
    if plan.permissions_boundary is None:
        return [Statement(sid=sid, actions=(*_ROLES, *_GIVE_RIGHTS), resources=roles)]
    # An existing role gets the boundary; none loses it, since nothing allows to delete it.
    actions = (*_GIVE_RIGHTS, "iam:PutRolePermissionsBoundary")
    return [
        Statement(sid=sid, actions=_ROLES, resources=roles),
        Statement(sid=f"Bound{sid}", actions=actions, resources=roles, condition=_bounded(plan)),
    ]


def _bounded(plan: Plan) -> dict[str, dict[str, str]]:
    bound = plan.permissions_boundary
    return {"StringEquals": {"iam:PermissionsBoundary": bound}} if bound else {}


def _tracing(plan: Plan) -> list[Statement]:
    traced = [Arn("iam", f"role/{f.role}") for f in plan.functions if f.tracing == "Active"]
    policy = {"ArnEquals": {"iam:PolicyARN": XRAY}, **_bounded(plan)}
    actions = ("iam:AttachRolePolicy", "iam:DetachRolePolicy")
    return [Statement(sid="Tracing", actions=actions, resources=traced, condition=policy)]


def _passing(sid: str, roles: Sequence[Arn], service: str) -> Statement:
    to = {"StringEquals": {"iam:PassedToService": service}}
    return Statement(sid=sid, actions=["iam:PassRole"], resources=roles, condition=to)


def _scheduling(plan: Plan) -> list[Statement]:
    if plan.scheduling is None:
        return []
    role = [Arn("iam", f"role/{plan.scheduling.role}")]
    # AWS's guide: rights are on all schedules of a group, not on single ones.
    entries = [Arn("scheduler", f"schedule/{plan.scheduling.group}/*")]
    return [
        Statement(sid="Schedules", actions=_SCHEDULES, resources=entries),
        Statement(sid="ScheduleGroup", actions=_GROUP, resources=[schedule_group(plan)]),
        *_roles(plan, "SchedulerRole", role),
        _passing("PassSchedulerRole", role, "scheduler.amazonaws.com"),
    ]


# ---- resources


def _queues(plan: Plan) -> list[Arn]:
    names = [name for queue in plan.queues for name in (queue.full_name, queue.dead_name)]
    if plan.scheduling:
        names.append(plan.scheduling.dead_name)
    return [Arn("sqs", name) for name in names]


def _table(plan: Plan) -> list[Arn]:
    return [Arn("dynamodb", f"table/{plan.table.name}")] if plan.table else []


def _payloads(plan: Plan) -> list[Arn]:
    return [Arn("s3", plan.payloads.bucket)] if plan.payloads else []


def _functions(plan: Plan) -> list[Arn]:
    return [Arn("lambda", f"function:{each.name}") for each in plan.functions]


def _logs(plan: Plan) -> list[Arn]:
    # A policy names a log group by its streams.
    return [Arn("logs", f"log-group:{each.log_group}:*") for each in plan.functions]
