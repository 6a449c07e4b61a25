"""Renders a plan as a SAM template: functions as SAM's, the rest as in CloudFormation."""

from __future__ import annotations

from typing import Any

from cloudq_deploy.aws.plan import Function, Plan
from cloudq_deploy.aws.render import cloudformation
from cloudq_deploy.aws.render.names import logical

_LAMBDA = (
    "AWS::Lambda::Function",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Version",
    "AWS::Lambda::Alias",
)
_TRANSFORM = "AWS::Serverless-2016-10-31"


def template(plan: Plan) -> dict[str, Any]:
    """Render the template, for `sam deploy` with the bucket and key of the zip."""
    made = cloudformation.template(plan)
    resources: dict[str, Any] = {
        name: resource
        for name, resource in made["Resources"].items()
        if resource["Type"] not in _LAMBDA
    }
    for function in plan.functions:
        resources[logical("Function", function.name)] = _function(plan, function)
    return {
        "AWSTemplateFormatVersion": made["AWSTemplateFormatVersion"],
        "Transform": _TRANSFORM,
        "Description": made["Description"],
        "Parameters": made["Parameters"],
        "Resources": resources,
        "Outputs": made["Outputs"],
    }


def _function(plan: Plan, function: Function) -> dict[str, Any]:
    properties = cloudformation.function_properties(plan, function)
    code = properties.pop("Code")
    mode = properties.pop("TracingConfig")["Mode"]
    if function.package == "zip":
        properties["CodeUri"] = {"Bucket": code["S3Bucket"], "Key": code["S3Key"]}
    else:
        properties["ImageUri"] = code["ImageUri"]
    properties["Tracing"] = mode
    properties["Role"] = {"Fn::GetAtt": [logical("Role", function.name), "Arn"]}
    properties["Events"] = {
        logical("Feed", feed.queue): {"Type": "SQS", "Properties": _event(feed.queue, feed)}
        for feed in plan.mappings
        if feed.function == function.name
    }
    if function.provisioned:
        properties["AutoPublishAlias"] = "live"
        properties["ProvisionedConcurrencyConfig"] = {
            "ProvisionedConcurrentExecutions": function.provisioned
        }
    return {
        "Type": "AWS::Serverless::Function",
        "DependsOn": [logical("Log", function.name)],
        "Properties": properties,
    }


def _event(queue: str, feed: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "Queue": {"Fn::GetAtt": [logical("Queue", queue), "Arn"]},
        "BatchSize": feed.batch_size,
        "MaximumBatchingWindowInSeconds": feed.window,
        "FunctionResponseTypes": [feed.report],
    }
    if feed.max_concurrency is not None:
        event["ScalingConfig"] = {"MaximumConcurrency": feed.max_concurrency}
    return event
