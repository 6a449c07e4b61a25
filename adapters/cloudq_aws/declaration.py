"""Declares SQS, DynamoDB, S3, EventBridge Scheduler and KMS to cloudq, without loading boto3."""

from __future__ import annotations

from cloudq.driver.adapters import Adapter

_LOGGERS = ("boto3", "botocore", "urllib3")
# boto3 looks for credentials as soon as a client is made.
_NOBODY = {
    "AWS_PROFILE": None,
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
}

SQS = Adapter(
    extra="aws",
    sample="sqs://us-east-1",
    environment=_NOBODY,
    suggested_backend="dynamodb://cloudq",
    peek_cost="SQS shows a message by leasing it for a moment: each look counts as a delivery, "
    "hides the message meanwhile, and may miss some",
    loggers=_LOGGERS,
    tariff="cloudq_aws.prices:SQS",
)
DYNAMODB = Adapter(
    extra="aws",
    sample="dynamodb://cloudq?region=us-east-1",
    environment=_NOBODY,
    loggers=_LOGGERS,
    tariff="cloudq_aws.prices:DYNAMODB",
)
S3 = Adapter(
    extra="aws",
    sample="s3://bucket/payloads?region=us-east-1",
    environment=_NOBODY,
    loggers=_LOGGERS,
    tariff="cloudq_aws.prices:S3",
)
KMS = Adapter(extra="aws", example="awskms://KEY-ID?region=REGION", loggers=_LOGGERS)
EVENTBRIDGE = Adapter(
    extra="aws",
    example="eventbridge://REGION?role=ARN",
    loggers=_LOGGERS,
    tariff="cloudq_aws.prices:EVENTBRIDGE",
)
