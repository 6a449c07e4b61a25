"""The prices of Pub/Sub with Cloud Tasks, Firestore and Cloud Storage, and how they are billed.

Pub/Sub bills the bytes that are published or delivered, 1000 for each such request at least; acks
and leases are free. Firestore bills documents, in a batch or not, whatever their size. Cloud
Storage bills requests, an upload in parts as one.
"""

from __future__ import annotations

from cloudq.driver.billing import (
    DELETE,
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
_BYTES = (Rate(price="pubsub_tib", step=1, least=1000),)
# A task is made, and delivered.
_TASK = (Rate(price="cloud_tasks_operation", step=32_768, each=True, factor=2),)
_READ = Rate(price="firestore_read", each=True)
_WRITE = Rate(price="firestore_write", each=True)

PUBSUB = Tariff(
    service="Pub/Sub",
    regions=("any",),
    date=_DATE,
    source="https://cloud.google.com/pubsub/pricing",
    prices={
        "pubsub_tib": Price(dollars=40.0, unit="TiB published or delivered", per=1 << 40),
        "cloud_tasks_operation": Price(dollars=0.40, unit="operation of Cloud Tasks, 32 KB"),
    },
    calls=dict.fromkeys((SEND, RECEIVE, POLL), _BYTES) | {SCHEDULE: _TASK},
    said=("a pull that gets nothing is counted as 1000 bytes, the least of a request",),
)
FIRESTORE = Tariff(
    service="Firestore",
    regions=("us-central1",),
    date=_DATE,
    source="https://cloud.google.com/firestore/pricing",
    prices={
        "firestore_read": Price(dollars=0.30, unit="document read"),
        "firestore_write": Price(dollars=0.90, unit="document written"),
        "firestore_delete": Price(dollars=0.10, unit="document deleted"),
    },
    calls={
        PUT: (_WRITE,),
        GET: (_READ,),
        QUERY: (_READ,),
        UPDATE: (_WRITE, _READ),
        DELETE: (Rate(price="firestore_delete", each=True),),
    },
    said=("the deletes of expired documents are not counted: one for each that is stored",),
)
CLOUD_STORAGE = Tariff(
    service="Cloud Storage",
    regions=("us-central1",),
    date=_DATE,
    source="https://cloud.google.com/storage/pricing",
    prices={
        "cloud_storage_write": Price(dollars=5.00, unit="object written, or list (class A)"),
        "cloud_storage_read": Price(dollars=0.40, unit="object read (class B)"),
    },
    calls={
        PUT: (Rate(price="cloud_storage_write"),),
        QUERY: (Rate(price="cloud_storage_write"),),
        GET: (Rate(price="cloud_storage_read"),),
    },
    said=("what is stored is not counted: $0.020 for a GB and month, by the second",),
)
