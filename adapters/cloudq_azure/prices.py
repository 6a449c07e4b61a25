"""The prices of Service Bus, Table and Blob storage, and what their requests are billed for.

Service Bus bills operations: each message sent, received, settled or renewed is one for each
started 64 KB, in a batch or not. The premium tier bills its units by the hour instead. Table
storage bills transactions, that is requests, and Blob storage does by their kind.
"""

from __future__ import annotations

from cloudq.driver.billing import (
    ACK,
    DELETE,
    EXTEND,
    GET,
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

_DATE = "2026-11"
_REGIONS = ("eastus",)
_OPERATION = (Rate(price="servicebus_operation", step=65_536, each=True),)
_TRANSACTION = (Rate(price="tables_transaction", each=True),)

SERVICE_BUS = Tariff(
    service="Service Bus",
    regions=_REGIONS,
    date=_DATE,
    source="https://azure.microsoft.com/pricing/details/service-bus/",
    prices={
        "servicebus_operation": Price(
            dollars=0.80, unit="operation of up to 64 KB, standard tier above 13 million a month"
        )
    },
    calls=dict.fromkeys((SEND, SCHEDULE, RECEIVE, POLL, ACK, EXTEND), _OPERATION),
    said=(
        "each message of a batch is counted as an operation, and a receive that gets nothing too",
        "the base charge of a namespace is not counted; a premium one has no other",
    ),
)
TABLES = Tariff(
    service="Table storage",
    regions=_REGIONS,
    date=_DATE,
    source="https://azure.microsoft.com/pricing/details/storage/tables/",
    prices={"tables_transaction": Price(dollars=0.045, unit="transaction")},
    # An update reads and then writes.
    calls=dict.fromkeys((PUT, GET, QUERY, DELETE), _TRANSACTION)
    | {UPDATE: (Rate(price="tables_transaction", each=True, factor=2),)},
)
BLOB_STORAGE = Tariff(
    service="Blob storage",
    regions=_REGIONS,
    date=_DATE,
    source="https://azure.microsoft.com/pricing/details/storage/blobs/",
    prices={
        "blob_write": Price(dollars=5.00, unit="request that writes or lists, hot tier, LRS"),
        "blob_read": Price(dollars=0.40, unit="request that reads, hot tier, LRS"),
    },
    calls={
        PUT: (Rate(price="blob_write"),),
        QUERY: (Rate(price="blob_write"),),
        GET: (Rate(price="blob_read"),),
    },
    said=("what is stored is not counted: $0.018 for a GB and month",),
)
