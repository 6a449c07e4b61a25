"""Renders a plan as a CloudFormation template."""

from __future__ import annotations

from typing import Any

from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.iam import (
    XRAY,
    Place,
    document,
    of_function,
    scheduler_url,
    trust,
)
from cloudq_deploy.aws.plan import (
    Alarm,
    Feed,
    Function,
    Plan,
    Queue,
    Table,
)
from cloudq_deploy.aws.render import scheduling
from cloudq_deploy.aws.render.names import logical
from cloudq_deploy.aws.render.references import (
    HERE,
    KEPT,
    Resources,
    arn_of,
    sub,
    substituted,
)

Template = dict[str, Any]

_GONE = {"DeletionPolicy": "Delete", "UpdateReplacePolicy": "Delete"}
# Namespace, metric, dimension, statistic.
METRICS = {
    "age": ("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", "Maximum"),
    "dead": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", "Maximum"),
    "errors": ("AWS/Lambda", "Errors", "FunctionName", "Sum"),
    "throttles": ("AWS/Lambda", "Throttles", "FunctionName", "Sum"),
}
_PERIOD = 300


def template(plan: Plan, version: str = "") -> Template:
    """Render the template. `version` is the hash of the code: warm functions need it."""
    resources: Resources = {}
    for queue in plan.queues:
        _add(resources, _queue(queue), f"queue {queue.name}")
    if plan.table:
        _add(resources, _table(plan.table), f"table {plan.table.name}")
    for function in plan.functions:
        _add(resources, _function(plan, function, version), f"function {function.name}")
    for feed in plan.mappings:
        _add(resources, _feed(plan, feed), f"queue {feed.queue}")
    _add(resources, scheduling.shared(plan), "the schedules")
    for schedule in plan.schedules:
        _add(resources, scheduling.entry(plan, schedule), f"schedule {schedule.name}")
    for alarm in plan.alarms:
        _add(resources, _alarm(alarm), f"alarm {alarm.name}")
    image = any(function.package == "image" for function in plan.functions)
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": described(plan.app),
        "Parameters": _parameters(image=image),
        "Resources": resources,
        "Outputs": {
            "Broker": {"Description": "CLOUDQ_BROKER of producers", "Value": plan.broker},
            "Backend": {"Description": "CLOUDQ_BACKEND of producers", "Value": plan.backend},
            **scheduling.output(plan),
        },
    }


def _add(resources: Resources, more: Resources, owner: str) -> None:
    for name in more:
        if name in resources:
            raise ConfigurationError(
                f"{owner} and another resource are both {name} in the template, whose names have "
                "only "
                "letters and digits: give one of them another name"
            )
    resources |= more


def described(app: str) -> str:
    """Describe an app's stack; `state.check_ours` compares it."""
    return f"Queues, functions and results of the cloudq app {app}"


def _parameters(*, image: bool) -> dict[str, Any]:
    if image:
        return {"ImageUri": {"Type": "String", "Description": "Image of the functions, by digest"}}
    return {
        "CodeBucket": {"Type": "String", "Description": "Bucket of the zip"},
        "CodeKey": {"Type": "String", "Description": "Key of the zip, made of its hash"},
    }


# ---- queues and table


def _queue(queue: Queue) -> Resources:
    encryption: dict[str, Any] = {"SqsManagedSseEnabled": True}
    if queue.kms_key:
        encryption = {"KmsMasterKeyId": queue.kms_key}
    common = {
        "MessageRetentionPeriod": queue.retention,
        "ReceiveMessageWaitTimeSeconds": 20,
        **encryption,
        **({"FifoQueue": True} if queue.fifo else {}),
    }
    dead = logical("DeadQueue", queue.name)
    redrive = {"deadLetterTargetArn": arn_of(dead), "maxReceiveCount": queue.max_receive_count}
    return {
        dead: {
            "Type": "AWS::SQS::Queue",
            **KEPT,
            "Properties": {"QueueName": queue.dead_name, **common},
        },
        logical("Queue", queue.name): {
            "Type": "AWS::SQS::Queue",
            **KEPT,
            "Properties": {
                "QueueName": queue.full_name,
                "VisibilityTimeout": queue.visibility,
                "RedrivePolicy": redrive,
                **common,
                **({"ContentBasedDeduplication": True} if queue.by_content else {}),
            },
        },
    }


def _table(table: Table) -> Resources:
    # Without a specification AWS encrypts the table with its own key, free of charge.
    encryption: dict[str, Any] = {}
    if table.kms_key:
        encryption = {
            "SSESpecification": {
                "SSEEnabled": True,
                "SSEType": "KMS",
                "KMSMasterKeyId": table.kms_key,
            }
        }
    return {
        "Results": {
            "Type": "AWS::DynamoDB::Table",
            **KEPT,
            "Properties": {
                "TableName": table.name,
                "BillingMode": table.billing,
                "AttributeDefinitions": [
                    {"AttributeName": "pk", "AttributeType": "S"},
                    {"AttributeName": "sk", "AttributeType": "S"},
                ],
                "KeySchema": [
                    {"AttributeName": "pk", "KeyType": "HASH"},
                    {"AttributeName": "sk", "KeyType": "RANGE"},
                ],
                "TimeToLiveSpecification": {"AttributeName": table.ttl, "Enabled": True},
                **encryption,
            },
        }
    }


# ---- functions


def _function(plan: Plan, function: Function, version: str) -> Resources:
    role, log, code = _names(function)
    resources: Resources = {
        log: {
            "Type": "AWS::Logs::LogGroup",
            **_GONE,
            "Properties": {
                "LogGroupName": function.log_group,
                "RetentionInDays": function.log_retention,
            },
        },
        role: {"Type": "AWS::IAM::Role", "Properties": _role(plan, function)},
        code: {
            "Type": "AWS::Lambda::Function",
            "DependsOn": [log],
            "Properties": function_properties(plan, function) | {"Role": arn_of(role)},
        },
    }
    if function.provisioned:
        numbered, alias = f"{code}Version{version[:12]}", f"{code}Live"
        resources[numbered] = {
            "Type": "AWS::Lambda::Version",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {"FunctionName": {"Ref": code}},
        }
        resources[alias] = {
            "Type": "AWS::Lambda::Alias",
            "Properties": {
                "FunctionName": {"Ref": code},
                "FunctionVersion": {"Fn::GetAtt": [numbered, "Version"]},
                "Name": "live",
                "ProvisionedConcurrencyConfig": {
                    "ProvisionedConcurrentExecutions": function.provisioned
                },
            },
        }
    return resources


def _names(function: Function) -> tuple[str, str, str]:
    return (
        logical("Role", function.name),
        logical("Log", function.name),
        logical("Function", function.name),
    )


def function_properties(plan: Plan, function: Function) -> dict[str, Any]:
    """Render a function's properties, without its role."""
    code: dict[str, Any] = {"ImageUri": {"Ref": "ImageUri"}}
    if function.package == "zip":
        code = {"S3Bucket": {"Ref": "CodeBucket"}, "S3Key": {"Ref": "CodeKey"}}
    made: dict[str, Any] = {
        "FunctionName": function.name,
        "PackageType": "Zip" if function.package == "zip" else "Image",
        "Code": code,
        "Architectures": [function.architecture],
        "MemorySize": function.memory,
        "Timeout": function.timeout,
        "RecursiveLoop": function.recursive_loop,
        "TracingConfig": {"Mode": function.tracing},
        "LoggingConfig": {"LogGroup": function.log_group},
        "Environment": {"Variables": substituted(environment(plan, function, HERE))},
    }
    if function.package == "zip":
        made |= {"Runtime": function.runtime, "Handler": function.handler}
    if function.layers:
        made["Layers"] = list(function.layers)
    if function.reserved_concurrency is not None:
        made["ReservedConcurrentExecutions"] = function.reserved_concurrency
    return made


def environment(plan: Plan, function: Function, place: Place) -> dict[str, str]:
    """The function's variables: its own, and the URLs of broker, stores and scheduler."""
    found = {**function.env, "CLOUDQ_BROKER": plan.broker, "CLOUDQ_BACKEND": plan.backend}
    if plan.payload_store:
        found["CLOUDQ_PAYLOAD_STORE"] = plan.payload_store
    url = scheduler_url(plan, place)
    if url is not None and plan.scheduling is not None and plan.scheduling.one_time_group:
        found["CLOUDQ_SCHEDULER"] = url
    return found


def _role(plan: Plan, function: Function) -> dict[str, Any]:
    role: dict[str, Any] = {
        "RoleName": function.role,
        "AssumeRolePolicyDocument": substituted(trust("lambda.amazonaws.com", HERE)),
        "Policies": [
            {
                "PolicyName": "tasks",
                "PolicyDocument": substituted(document(of_function(plan, function), HERE)),
            }
        ],
    }
    if plan.permissions_boundary:
        role["PermissionsBoundary"] = plan.permissions_boundary
    if function.tracing == "Active":
        # X-Ray has no resources, so its rights cannot be limited to some.
        role["ManagedPolicyArns"] = [sub(XRAY)]
    return role


def _feed(plan: Plan, feed: Feed) -> Resources:
    function = next(each for each in plan.functions if each.name == feed.function)
    _, _, code = _names(function)
    alias = f"{code}Live"
    properties: dict[str, Any] = {
        "EventSourceArn": arn_of(logical("Queue", feed.queue)),
        "FunctionName": {"Ref": alias if function.provisioned else code},
        "BatchSize": feed.batch_size,
        "MaximumBatchingWindowInSeconds": feed.window,
        "FunctionResponseTypes": [feed.report],
    }
    if feed.max_concurrency is not None:
        properties["ScalingConfig"] = {"MaximumConcurrency": feed.max_concurrency}
    return {
        logical("Feed", feed.queue): {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": properties,
        }
    }


# ---- alarms


def _alarm(alarm: Alarm) -> Resources:
    namespace, metric, dimension, statistic = METRICS[alarm.metric]
    properties: dict[str, Any] = {
        "AlarmName": alarm.name,
        "Namespace": namespace,
        "MetricName": metric,
        "Dimensions": [{"Name": dimension, "Value": alarm.of}],
        "Statistic": statistic,
        "Period": _PERIOD,
        "EvaluationPeriods": 1,
        "Threshold": alarm.threshold,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
    }
    if alarm.topic:
        properties["AlarmActions"] = [alarm.topic]
    return {
        logical("Alarm", alarm.name): {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}
    }
