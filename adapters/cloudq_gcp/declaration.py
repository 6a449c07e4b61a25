"""Declares Google Cloud's services to cloudq, without loading Google's packages."""

from __future__ import annotations

from cloudq.driver.adapters import Adapter

_LOGGERS = ("google", "urllib3")

PUBSUB = Adapter(
    extra="gcp",
    sample="pubsub://project?emulator=127.0.0.1:1",
    suggested_backend="firestore://PROJECT/cloudq",
    peek_cost="Pub/Sub shows a message by leasing it for a moment: each look counts as a delivery, "
    "hides the message meanwhile, and may miss some",
    loggers=_LOGGERS,
    tariff="cloudq_gcp.prices:PUBSUB",
)
FIRESTORE = Adapter(
    extra="gcp",
    sample="firestore://project/cloudq?emulator=127.0.0.1:1",
    loggers=_LOGGERS,
    tariff="cloudq_gcp.prices:FIRESTORE",
)
CLOUD_STORAGE = Adapter(
    extra="gcp",
    sample="gs://bucket/payloads?emulator=127.0.0.1:1",
    loggers=_LOGGERS,
    tariff="cloudq_gcp.prices:CLOUD_STORAGE",
)
CLOUD_KMS = Adapter(extra="gcp", example="gcpkms://PROJECT/LOCATION/KEYRING/KEY", loggers=_LOGGERS)
CLOUD_SCHEDULER = Adapter(
    extra="gcp", example="cloudscheduler://PROJECT/LOCATION", loggers=_LOGGERS
)
