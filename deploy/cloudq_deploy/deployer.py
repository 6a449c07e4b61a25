"""What `cloudq deploy apply` itself may do, and CloudFormation on its behalf.

CloudFormation makes resources with the rights of whoever asks it, so these are the calls of its
resource handlers too; AWS documents them in the schemas of the resource types.
"""

from __future__ import annotations

from cloudq_deploy.plan import Plan
from cloudq_deploy.policies import Arn, Statement

_STACK = (
    "cloudformation:CreateChangeSet",
    "cloudformation:DeleteChangeSet",
    "cloudformation:DeleteStack",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStackResourceDrifts",
    "cloudformation:DescribeStacks",
    "cloudformation:DetectStackDrift",
    "cloudformation:DetectStackResourceDrift",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplate",
    "cloudformation:ListStackResources",
)
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
    "lambda:InvokeFunction",
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
_FEEDS = (
    "lambda:CreateEventSourceMapping",
    "lambda:DeleteEventSourceMapping",
    "lambda:GetEventSourceMapping",
    "lambda:ListTags",
    "lambda:TagResource",
    "lambda:UntagResource",
    "lambda:UpdateEventSourceMapping",
)
_ROLES = (
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:ListAttachedRolePolicies",
    "iam:ListRolePolicies",
    "iam:PutRolePolicy",
    "iam:TagRole",
    "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy",
)
_LOGS = (
    "logs:CreateLogGroup",
    "logs:DeleteLogGroup",
    "logs:DeleteRetentionPolicy",
    "logs:DescribeLogGroups",
    "logs:FilterLogEvents",
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
_BUCKET = (
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:ListBucket",
    "s3:PutBucketPublicAccessBlock",
)
_OBJECTS = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
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


def deployer(plan: Plan, bucket: str = "") -> list[Statement]:
    """What it takes to apply, change, look at and destroy the plan's stack."""
    queues = [
        Arn("sqs", name) for queue in plan.queues for name in (queue.full_name, queue.dead_name)
    ]
    table = [Arn("dynamodb", f"table/{plan.table.name}")] if plan.table else []
    functions = [Arn("lambda", f"function:{each.name}") for each in plan.functions]
    warm = [each for each in plan.functions if each.provisioned]
    versions = [Arn("lambda", f"function:{each.name}:*") for each in warm]
    roles = [Arn("iam", f"role/{each.role}") for each in plan.functions]
    logs = [Arn("logs", f"log-group:{each.log_group}:*") for each in plan.functions]
    alarms = [Arn("cloudwatch", f"alarm:{alarm.name}") for alarm in plan.alarms]
    passing = {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    return [
        Statement(
            sid="Stack", actions=_STACK, resources=[Arn("cloudformation", f"stack/{plan.stack}/*")]
        ),
        Statement(sid="Queues", actions=_QUEUES, resources=queues),
        Statement(sid="Table", actions=_TABLE, resources=table),
        Statement(sid="Functions", actions=_FUNCTIONS, resources=functions),
        Statement(
            sid="Warm",
            actions=_WARM,
            resources=[*(Arn("lambda", f"function:{each.name}") for each in warm), *versions],
        ),
        Statement(sid="Feeds", actions=_FEEDS, resources=[Arn("lambda", "event-source-mapping:*")]),
        Statement(sid="Roles", actions=_ROLES, resources=roles),
        Statement(sid="PassRoles", actions=["iam:PassRole"], resources=roles, condition=passing),
        Statement(sid="Logs", actions=_LOGS, resources=logs),
        Statement(sid="Alarms", actions=_ALARMS, resources=alarms),
        *_scheduling(plan),
        *_code(plan, bucket),
    ]


def _scheduling(plan: Plan) -> list[Statement]:
    if not plan.schedules:
        return []
    role = [Arn("iam", f"role/{plan.stack}-scheduler-{plan.region}")]
    passing = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
    entries = [Arn("scheduler", f"schedule/{plan.stack}/{each.name}") for each in plan.schedules]
    group = [Arn("scheduler", f"schedule-group/{plan.stack}")]
    return [
        Statement(sid="Schedules", actions=_SCHEDULES, resources=entries),
        Statement(sid="ScheduleGroup", actions=_GROUP, resources=group),
        Statement(sid="SchedulerRole", actions=_ROLES, resources=role),
        Statement(
            sid="PassSchedulerRole", actions=["iam:PassRole"], resources=role, condition=passing
        ),
    ]


def _code(plan: Plan, bucket: str) -> list[Statement]:
    objects = [Arn("s3", f"{bucket}/{plan.stack}/*")] if bucket else []
    return [
        Statement(sid="Bucket", actions=_BUCKET, resources=[Arn("s3", bucket)] if bucket else []),
        Statement(sid="Code", actions=_OBJECTS, resources=objects),
    ]
