"""Renders a plan as Terraform's JSON, for the AWS provider 6."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cloudq.errors import ConfigurationError
from cloudq_aws.eventbridge import properties as schedule_properties
from cloudq_aws.s3 import rule_id
from cloudq_deploy.aws.iam import (
    XRAY,
    Place,
    document,
    of_function,
    schedule_groups,
    scheduler_url,
    statements,
    trust,
)
from cloudq_deploy.aws.plan import (
    UNDELIVERED,
    Alarm,
    Feed,
    Function,
    Payloads,
    Plan,
    Queue,
    Schedule,
    Table,
)
from cloudq_deploy.aws.render.cloudformation import METRICS, environment
from cloudq_deploy.aws.render.references import RETENTION
from cloudq_deploy.aws.render.scheduling import moment
from cloudq_deploy.aws.schedules import job_of
from cloudq_deploy.terraform import literal
from cloudq_deploy.terraform import terraform_name as named

Configuration = dict[str, Any]

_PERIOD = 300
_HERE = Place(
    partition="${data.aws_partition.current.partition}",
    region="${var.region}",
    account="${data.aws_caller_identity.current.account_id}",
)


def configuration(plan: Plan) -> Configuration:
    """Render the plan; the variables are the region and the address of the code."""
    resources = Resources()
    for queue in plan.queues:
        name = {"name": queue.dead_name}
        resources.add("aws_sqs_queue", f"{queue.name}-dead", _common(queue) | name)
        resources.add("aws_sqs_queue", queue.name, _queue(queue))
    if plan.table:
        resources.add("aws_dynamodb_table", "results", _table(plan.table))
    if plan.payloads:
        _add_payloads(plan.payloads, resources)
    for function in plan.functions:
        _add_function(plan, function, resources)
    for feed in plan.mappings:
        resources.add("aws_lambda_event_source_mapping", feed.queue, _feed(plan, feed))
    for alarm in plan.alarms:
        resources.add("aws_cloudwatch_metric_alarm", alarm.name, _alarm(alarm))
    _add_schedules(plan, resources)
    return {
        "terraform": {
            "required_providers": {"aws": {"source": "hashicorp/aws", "version": "~> 6.0"}}
        },
        "provider": {"aws": {"region": "${var.region}", "default_tags": {"tags": dict(plan.tags)}}},
        "variable": _variables(plan),
        "data": {
            "aws_caller_identity": {"current": {}},
            "aws_partition": {"current": {}},
        },
        "resource": resources.by_kind,
        "output": _outputs(plan),
    }


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a configuration, by kind and name."""

    by_kind: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, kind: str, name: str, values: dict[str, Any]) -> None:
        """Add a resource. Raises `ConfigurationError` if its name in Terraform is taken."""
        taken = self.by_kind.setdefault(kind, {})
        if named(name) in taken:
            raise ConfigurationError(
                f"{name} and another {kind} are both {named(name)} in Terraform: give one of them "
                "another name"
            )
        taken[named(name)] = values


def _variables(plan: Plan) -> dict[str, Any]:
    image = any(function.package == "image" for function in plan.functions)
    return {
        "region": {"type": "string", "default": plan.region},
        **{
            name: {"type": "string", "description": text}
            for name, text in (_IMAGE if image else _CODE).items()
        },
    }


def _outputs(plan: Plan) -> dict[str, Any]:
    outputs = {
        "broker": plan.broker,
        "backend": plan.backend,
        "scheduler": scheduler_url(plan, _HERE),
    }
    return {name: {"value": value} for name, value in outputs.items() if value is not None}


_CODE = {"code_bucket": "Bucket of the zip", "code_key": "Key of the zip, made of its hash"}
_IMAGE = {"image_uri": "Image of the functions, by digest"}
_KEPT = {"lifecycle": {"prevent_destroy": True}}


def _common(queue: Queue) -> dict[str, Any]:
    encryption: dict[str, Any] = {"sqs_managed_sse_enabled": True}
    if queue.kms_key:
        encryption = {"kms_master_key_id": queue.kms_key}
    return {
        "message_retention_seconds": queue.retention,
        "receive_wait_time_seconds": 20,
        **encryption,
        **({"fifo_queue": True} if queue.fifo else {}),
        **_KEPT,
    }


def _queue(queue: Queue) -> dict[str, Any]:
    dead = f"${{aws_sqs_queue.{named(f'{queue.name}-dead')}.arn}}"
    redrive = {"deadLetterTargetArn": dead, "maxReceiveCount": queue.max_receive_count}
    return _common(queue) | {
        "name": queue.full_name,
        "visibility_timeout_seconds": queue.visibility,
        "redrive_policy": json.dumps(redrive),
        **({"content_based_deduplication": True} if queue.by_content else {}),
    }


def _table(table: Table) -> dict[str, Any]:
    encryption: dict[str, Any] = {}
    if table.kms_key:
        encryption = {"server_side_encryption": {"enabled": True, "kms_key_arn": table.kms_key}}
    return {
        "name": table.name,
        "billing_mode": table.billing,
        "hash_key": "pk",
        "range_key": "sk",
        "attribute": [{"name": "pk", "type": "S"}, {"name": "sk", "type": "S"}],
        "ttl": {"attribute_name": table.ttl, "enabled": True},
        **encryption,
        **_KEPT,
    }


def _add_payloads(payloads: Payloads, resources: Resources) -> None:
    bucket = {"bucket": "${aws_s3_bucket.payloads.id}"}
    resources.add("aws_s3_bucket", "payloads", {"bucket": payloads.bucket, **_KEPT})
    blocked = (
        "block_public_acls",
        "block_public_policy",
        "ignore_public_acls",
        "restrict_public_buckets",
    )
    private = bucket | dict.fromkeys(blocked, True)
    resources.add("aws_s3_bucket_public_access_block", "payloads", private)
    rule = {
        "id": rule_id(payloads.prefix),
        "status": "Enabled",
        "filter": {"prefix": payloads.prefix},
        "expiration": {"days": payloads.days},
        "noncurrent_version_expiration": {"noncurrent_days": 1},
        "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
    }
    resources.add("aws_s3_bucket_lifecycle_configuration", "payloads", bucket | {"rule": [rule]})


def _role(plan: Plan, name: str, who: dict[str, Any]) -> dict[str, Any]:
    bound = plan.permissions_boundary
    more = {"permissions_boundary": bound} if bound else {}
    return {"name": name, "assume_role_policy": json.dumps(who), **more}


def _add_function(plan: Plan, function: Function, resources: Resources) -> None:
    name, own = function.name, named(function.name)
    retention = {"name": function.log_group, "retention_in_days": function.log_retention}
    resources.add("aws_cloudwatch_log_group", name, retention)
    role = _role(plan, function.role, trust("lambda.amazonaws.com", _HERE))
    resources.add("aws_iam_role", name, role)
    policy = {
        "name": "tasks",
        "role": f"${{aws_iam_role.{own}.id}}",
        "policy": json.dumps(document(of_function(plan, function), _HERE)),
    }
    resources.add("aws_iam_role_policy", name, policy)
    if function.tracing == "Active":
        traces = {"role": f"${{aws_iam_role.{own}.name}}", "policy_arn": XRAY.at(_HERE)}
        resources.add("aws_iam_role_policy_attachment", f"{name}-traces", traces)
    resources.add("aws_lambda_function", name, _function(plan, function))
    loop = {
        "function_name": f"${{aws_lambda_function.{own}.function_name}}",
        "recursive_loop": function.recursive_loop,
    }
    resources.add("aws_lambda_function_recursion_config", name, loop)
    if function.provisioned:
        _add_warm(function, resources)


def _function(plan: Plan, function: Function) -> dict[str, Any]:
    code: dict[str, Any] = {"package_type": "Image", "image_uri": "${var.image_uri}"}
    if function.package == "zip":
        code = {
            "s3_bucket": "${var.code_bucket}",
            "s3_key": "${var.code_key}",
            "runtime": function.runtime,
            "handler": function.handler,
        }
    made: dict[str, Any] = {
        "function_name": function.name,
        "role": f"${{aws_iam_role.{named(function.name)}.arn}}",
        "architectures": [function.architecture],
        "memory_size": function.memory,
        "timeout": function.timeout,
        "environment": {"variables": _environment(plan, function)},
        "tracing_config": {"mode": function.tracing},
        "logging_config": {"log_format": "Text", "log_group": function.log_group},
        "depends_on": [f"aws_cloudwatch_log_group.{named(function.name)}"],
        **code,
    }
    if function.layers:
        made["layers"] = list(function.layers)
    if function.reserved_concurrency is not None:
        made["reserved_concurrent_executions"] = function.reserved_concurrency
    if function.provisioned:
        made["publish"] = True
    return made


def _add_warm(function: Function, resources: Resources) -> None:
    name = named(function.name)
    alias = {
        "name": "live",
        "function_name": f"${{aws_lambda_function.{name}.function_name}}",
        "function_version": f"${{aws_lambda_function.{name}.version}}",
    }
    resources.add("aws_lambda_alias", function.name, alias)
    warm = {
        "function_name": f"${{aws_lambda_function.{name}.function_name}}",
        "qualifier": f"${{aws_lambda_alias.{name}.name}}",
        "provisioned_concurrent_executions": function.provisioned,
    }
    resources.add("aws_lambda_provisioned_concurrency_config", function.name, warm)


def _feed(plan: Plan, feed: Feed) -> dict[str, Any]:
    function = next(each for each in plan.functions if each.name == feed.function)
    kind = "aws_lambda_alias" if function.provisioned else "aws_lambda_function"
    return {
        "event_source_arn": f"${{aws_sqs_queue.{named(feed.queue)}.arn}}",
        "function_name": f"${{{kind}.{named(feed.function)}.arn}}",
        "batch_size": feed.batch_size,
        "maximum_batching_window_in_seconds": feed.window,
        "function_response_types": [feed.report],
        **_scaling(feed.max_concurrency),
    }


def _scaling(most: int | None) -> dict[str, Any]:
    return {} if most is None else {"scaling_config": {"maximum_concurrency": most}}


def _alarm(alarm: Alarm) -> dict[str, Any]:
    namespace, metric, dimension, statistic = METRICS[alarm.metric]
    return {
        "alarm_name": alarm.name,
        "namespace": namespace,
        "metric_name": metric,
        "dimensions": {dimension: alarm.of},
        "statistic": statistic,
        "period": _PERIOD,
        "evaluation_periods": 1,
        "threshold": alarm.threshold,
        "comparison_operator": "GreaterThanThreshold",
        "treat_missing_data": "notBreaching",
        **({"alarm_actions": [alarm.topic]} if alarm.topic else {}),
    }


def _environment(plan: Plan, function: Function) -> dict[str, str]:
    found = environment(plan, function, _HERE)
    return {
        name: literal(value) if name in function.env else value for name, value in found.items()
    }


def _add_schedules(plan: Plan, resources: Resources) -> None:
    scheduling = plan.scheduling
    if scheduling is None:
        return
    encryption: dict[str, Any] = {"sqs_managed_sse_enabled": True}
    if scheduling.kms_key:
        encryption = {"kms_master_key_id": scheduling.kms_key}
    lost = {"name": scheduling.dead_name, "message_retention_seconds": RETENTION}
    resources.add("aws_sqs_queue", UNDELIVERED, lost | encryption | _KEPT)
    resources.add("aws_scheduler_schedule_group", "schedules", {"name": scheduling.group})
    who = trust("scheduler.amazonaws.com", _HERE, schedule_groups(plan))
    resources.add("aws_iam_role", "scheduler", _role(plan, scheduling.role, who))
    policy = {
        "name": "fire",
        "role": "${aws_iam_role.scheduler.id}",
        "policy": json.dumps(document(statements(plan, "scheduler"), _HERE)),
    }
    resources.add("aws_iam_role_policy", "scheduler", policy)
    for schedule in plan.schedules:
        resources.add("aws_scheduler_schedule", schedule.name, _schedule(plan, schedule))


def _schedule(plan: Plan, schedule: Schedule) -> dict[str, Any]:
    made = schedule_properties(
        job_of(schedule),
        queue=f"${{aws_sqs_queue.{named(plan.queue(schedule.queue).name)}.arn}}",
        role="${aws_iam_role.scheduler.arn}",
        dead=f"${{aws_sqs_queue.{named(UNDELIVERED)}.arn}}",
    )
    group = "${aws_scheduler_schedule_group.schedules.name}"
    return {"name": schedule.name, "group_name": group, **_snake(made)}


def _snake(value: Any) -> Any:
    """Turn names of the API into Terraform's: MessageGroupId becomes message_group_id."""
    if isinstance(value, dict):
        return {_snake_name(key): _snake(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return moment(value) if isinstance(value, datetime) else value


def _snake_name(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
