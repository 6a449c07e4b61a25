"""The prices of SQS, DynamoDB, S3 and EventBridge Scheduler, and what their requests are billed as.

SQS bills each started 64 KB of a request or an answer, whatever the number of its messages.
DynamoDB bills each item: a write by each started KB, a read by each started 4 KB, and half of that
for reads that may be behind. S3 bills requests, whatever their size.
"""

from __future__ import annotations

from cloudq.driver.billing import (
    ACK,
    DELETE,
    EXTEND,
    GET,
    LOOK,
    OTHER,
    POLL,
    PUT,
    QUERY,
    RECEIVE,
    SCHEDULE,
    SEND,
    UPDATE,
    Price,
    Rate,
    Tariff,
)

# Regions that have the prices of the first.
_REGIONS = ("us-east-1", "us-east-2", "us-west-2")
_DATE = "2026-11"

_REQUEST = (Rate(price="sqs_request", ordered="sqs_fifo_request", step=65_536),)
_WRITE = (Rate(price="dynamodb_write", step=1024, each=True),)
_READ = (Rate(price="dynamodb_read", step=4096, each=True),)
_LATE_READ = (Rate(price="dynamodb_read", step=4096, each=True, factor=0.5, least=0),)
# A query rounds up the sum of its items.
_QUERY = (Rate(price="dynamodb_read", step=4096),)

SQS = Tariff(
    service="SQS",
    regions=_REGIONS,
    date=_DATE,
    source="https://aws.amazon.com/sqs/pricing/",
    prices={
        "sqs_request": Price(dollars=0.40, unit="request of up to 64 KB, standard queue"),
        "sqs_fifo_request": Price(dollars=0.50, unit="request of up to 64 KB, FIFO queue"),
    },
    calls=dict.fromkeys((SEND, RECEIVE, POLL, ACK, EXTEND, OTHER), _REQUEST),
)
DYNAMODB = Tariff(
    service="DynamoDB",
    regions=_REGIONS,
    date=_DATE,
    source="https://aws.amazon.com/dynamodb/pricing/on-demand/",
    prices={
        "dynamodb_write": Price(dollars=0.625, unit="write of up to 1 KB, on demand"),
        "dynamodb_read": Price(dollars=0.125, unit="read of up to 4 KB, on demand"),
    },
    calls={
        PUT: _WRITE,
        UPDATE: _WRITE,
        DELETE: _WRITE,
        GET: _READ,
        LOOK: _LATE_READ,
        QUERY: _QUERY,
    },
)
S3 = Tariff(
    service="S3",
    regions=_REGIONS,
    date=_DATE,
    source="https://aws.amazon.com/s3/pricing/",
    prices={
        "s3_write": Price(dollars=5.00, unit="request that writes or lists, of one part or all"),
        "s3_read": Price(dollars=0.40, unit="request that reads"),
    },
    calls={
        PUT: (Rate(price="s3_write"),),
        QUERY: (Rate(price="s3_write"),),
        GET: (Rate(price="s3_read"),),
    },
    said=("what is stored is not counted: $0.023 for a GB and month, by the hour",),
)
EVENTBRIDGE = Tariff(
    service="EventBridge Scheduler",
    regions=_REGIONS,
    date=_DATE,
    source="https://aws.amazon.com/eventbridge/pricing/",
    prices={"eventbridge_invocation": Price(dollars=1.00, unit="invocation of a schedule")},
    calls={SCHEDULE: (Rate(price="eventbridge_invocation", each=True),)},
    said=("periodic schedules are not counted: a million runs are a dollar",),
)
