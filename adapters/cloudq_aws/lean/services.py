"""The operations that need no botocore: where they go, what is sent, and what a good answer has."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudq_aws.lean.request import Pattern, written_as

# The regions of AWS's own partition, as botocore's file of partitions has them.
_REGION = re.compile(r"(us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d+")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?/?")


class Shape:
    """A part of an answer, as botocore's model of a service describes it.

    A structure that is `is_closed` has no other member: botocore reads an answer that has one.
    """

    is_closed = True

    def __init__(self, type_name: str, name: str = "", **members: Shape) -> None:
        self.type_name = type_name
        self.name = name
        self.members: dict[str, Shape] = members
        self.member: Any = None  # of a list
        self.value: Any = None  # of a map


def _list(of: Shape) -> Shape:
    made = Shape("list")
    made.member = of
    return made


def _map(of: Shape) -> Shape:
    made = Shape("map")
    made.value = of
    return made


_STRING, _BLOB, _BOOLEAN = Shape("string"), Shape("blob"), Shape("boolean")
_INTEGER, _DOUBLE = Shape("integer"), Shape("double")

_VALUE = Shape(
    "structure",
    "AttributeValue",
    S=_STRING,
    N=_STRING,
    B=_BLOB,
    SS=_list(_STRING),
    NS=_list(_STRING),
    BS=_list(_BLOB),
    NULL=_BOOLEAN,
    BOOL=_BOOLEAN,
)
_VALUE.members |= {"M": _map(_VALUE), "L": _list(_VALUE)}
_ITEM = _map(_VALUE)
_CAPACITY = Shape(
    "structure",
    "ConsumedCapacity",
    TableName=_STRING,
    CapacityUnits=_DOUBLE,
    ReadCapacityUnits=_DOUBLE,
    WriteCapacityUnits=_DOUBLE,
)
_NOTHING = Shape("structure", "Nothing")  # without a member: what is left over is botocore's
_SENT = Shape(
    "structure",
    "SendMessageBatchResultEntry",
    Id=_STRING,
    MessageId=_STRING,
    MD5OfMessageBody=_STRING,
    MD5OfMessageAttributes=_STRING,
    MD5OfMessageSystemAttributes=_STRING,
    SequenceNumber=_STRING,
)
_DONE = Shape("structure", "BatchResultEntry", Id=_STRING)
_FAILED = Shape(
    "structure",
    "BatchResultErrorEntry",
    Id=_STRING,
    SenderFault=_BOOLEAN,
    Code=_STRING,
    Message=_STRING,
)


def _answer(name: str, **members: Shape) -> Shape:
    return Shape("structure", f"{name}Output", **members)


def _batch(name: str, done: Shape) -> Shape:
    return _answer(name, Successful=_list(done), Failed=_list(_FAILED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The frequent operations of a service, and what they are called on the wire.

    `answers` are the shapes of good answers, by operation; `headers` are those of this service.
    """

    name: str
    target: str
    answers: Mapping[str, Shape]
    headers: Mapping[str, str]

    def pattern(self, operation: str, region: str, url: str, *, has_token: bool) -> Pattern:
        """Make the pattern of an operation's requests: that of botocore, with a name of its own."""
        headers = {
            "X-Amz-Target": f"{self.target}.{operation}",
            "Content-Type": "application/x-amz-json-1.0",
            **self.headers,
            "User-Agent": _user_agent(),
            "X-Amz-Date": "",
            **({"X-Amz-Security-Token": ""} if has_token else {}),
            "Authorization": "",
            "amz-sdk-invocation-id": "",
            "amz-sdk-request": "attempt=1; max=3",
            "Content-Length": "",
        }
        lower = {"host", *map(str.lower, headers)}
        signed = ";".join(sorted(lower & _SIGNED))
        place = f"{region}/{self.name}/aws4_request"
        return written_as(url, headers, place=place, signed=signed, account=None)


_SIGNED = frozenset(
    {
        "content-type",
        "host",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-target",
        "x-amzn-query-mode",
    }
)
SERVICES: Mapping[str, Service] = {
    "sqs": Service(
        name="sqs",
        target="AmazonSQS",
        headers={"x-amzn-query-mode": "true"},
        answers={
            "GetQueueUrl": _answer("GetQueueUrl", QueueUrl=_STRING),
            "SendMessageBatch": _batch("SendMessageBatch", _SENT),
            "DeleteMessageBatch": _batch("DeleteMessageBatch", _DONE),
            "ChangeMessageVisibilityBatch": _batch("ChangeMessageVisibilityBatch", _DONE),
        },
    ),
    "dynamodb": Service(
        name="dynamodb",
        target="DynamoDB_20120810",
        headers={},
        answers={
            "BatchWriteItem": _answer(
                "BatchWriteItem",
                UnprocessedItems=_NOTHING,
                ConsumedCapacity=_list(_CAPACITY),
            ),
            "BatchGetItem": _answer(
                "BatchGetItem",
                Responses=_map(_list(_ITEM)),
                UnprocessedKeys=_NOTHING,
                ConsumedCapacity=_list(_CAPACITY),
            ),
            "UpdateItem": _answer("UpdateItem", Attributes=_ITEM, ConsumedCapacity=_CAPACITY),
            "PutItem": _answer("PutItem", ConsumedCapacity=_CAPACITY),
            "Query": _answer(
                "Query",
                Items=_list(_ITEM),
                Count=_INTEGER,
                ScannedCount=_INTEGER,
                LastEvaluatedKey=_ITEM,
                ConsumedCapacity=_CAPACITY,
            ),
        },
    ),
}


def endpoint_of(service: str, region: str, given: str | None) -> str | None:
    """Return the address of a service, as botocore would find it; None where only it knows."""
    if given is not None:
        return f"{given.rstrip('/')}/" if _ENDPOINT.fullmatch(given) else None
    return f"https://{service}.{region}.amazonaws.com/" if _REGION.fullmatch(region) else None


def _user_agent() -> str:
    runs = os.environ.get("AWS_EXECUTION_ENV")
    parts = ["cloudq", f"lang/python#{platform.python_version()}"]
    return " ".join([*parts, f"exec-env/{runs}"] if runs else parts)
