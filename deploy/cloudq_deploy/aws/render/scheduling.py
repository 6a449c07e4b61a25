"""Renders an app's schedules for a CloudFormation template."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cloudq_aws.eventbridge import properties as schedule_properties
from cloudq_deploy.aws.iam import (
    document,
    schedule_groups,
    scheduler_url,
    statements,
    trust,
)
from cloudq_deploy.aws.plan import Plan, Schedule, Scheduling
from cloudq_deploy.aws.render.names import logical
from cloudq_deploy.aws.render.references import (
    HERE,
    KEPT,
    RETENTION,
    Resources,
    arn_of,
    substituted,
)
from cloudq_deploy.aws.schedules import job_of


def shared(plan: Plan) -> Resources:
    """Render the parts that all schedules share: their group, role and dead-letter queue."""
    scheduling = plan.scheduling
    if scheduling is None:
        return {}
    return {
        "Undelivered": {
            "Type": "AWS::SQS::Queue",
            **KEPT,
            "Properties": {"QueueName": scheduling.dead_name, **undelivered(scheduling)},
        },
        # Entries have no tags; those of their group tell the owner.
        "Schedules": {
            "Type": "AWS::Scheduler::ScheduleGroup",
            "Properties": {
                "Name": scheduling.group,
                "Tags": [{"Key": key, "Value": value} for key, value in plan.tags.items()],
            },
        },
        "SchedulerRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": scheduling.role,
                **({"PermissionsBoundary": bound} if (bound := plan.permissions_boundary) else {}),
                "AssumeRolePolicyDocument": substituted(
                    trust("scheduler.amazonaws.com", HERE, schedule_groups(plan))
                ),
                "Policies": [
                    {
                        "PolicyName": "fire",
                        "PolicyDocument": substituted(
                            document(statements(plan, "scheduler"), HERE)
                        ),
                    }
                ],
            },
        },
    }


def undelivered(scheduling: Scheduling) -> dict[str, Any]:
    """Render the queue for messages that could not be sent: EventBridge takes no FIFO queue."""
    encryption: dict[str, Any] = {"SqsManagedSseEnabled": True}
    if scheduling.kms_key:
        encryption = {"KmsMasterKeyId": scheduling.kms_key}
    return {"MessageRetentionPeriod": RETENTION, **encryption}


def entry(plan: Plan, schedule: Schedule) -> Resources:
    """Render a schedule."""
    made = schedule_properties(
        job_of(schedule),
        queue=arn_of(logical("Queue", plan.queue(schedule.queue).name)),
        role=arn_of("SchedulerRole"),
        dead=arn_of("Undelivered"),
    )
    properties = {
        name: moment(value) if isinstance(value, datetime) else value
        for name, value in made.items()
    }
    return {
        logical("Schedule", schedule.name): {
            "Type": "AWS::Scheduler::Schedule",
            "Properties": {
                "Name": schedule.name,
                "GroupName": {"Ref": "Schedules"},
                **properties,
            },
        }
    }


def moment(value: datetime) -> str:
    """Write a start or an end in the form of templates."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def output(plan: Plan) -> dict[str, Any]:
    """Render the output with which `cloudq schedules` finds the entries."""
    url = scheduler_url(plan, HERE)
    if url is None:
        return {}
    return {"Scheduler": {"Description": "CLOUDQ_SCHEDULER", "Value": {"Fn::Sub": url}}}
