"""Declares Azure's services to cloudq, without loading Azure's packages."""

from __future__ import annotations

from cloudq.driver.adapters import Adapter

_LOGGERS = ("azure", "urllib3")
_NO_SCHEDULER = (
    "Azure has no scheduler that sends to queues: run `cloudq beat` (of several one sends), or "
    "give a Functions app these timers by cloudq_azure.register(..., timers={NAME: Timer})"
)

SERVICE_BUS = Adapter(
    extra="azure",
    sample="servicebus://127.0.0.1:1?emulator=true",
    suggested_backend="aztables://ACCOUNT/cloudq",
    no_scheduler=_NO_SCHEDULER,
    loggers=_LOGGERS,
    tariff="cloudq_azure.prices:SERVICE_BUS",
)
TABLES = Adapter(
    extra="azure",
    sample="aztables://devstoreaccount1/cloudq",
    loggers=_LOGGERS,
    tariff="cloudq_azure.prices:TABLES",
)
BLOB_STORAGE = Adapter(
    extra="azure",
    sample="azblob://devstoreaccount1/cloudq/payloads",
    loggers=_LOGGERS,
    tariff="cloudq_azure.prices:BLOB_STORAGE",
)
KEY_VAULT = Adapter(extra="azure", example="azkeyvault://VAULT/KEY", loggers=_LOGGERS)
# Names under which people look for a scheduler there.
FUNCTIONS = Adapter(extra="azure", no_scheduler=_NO_SCHEDULER, loggers=_LOGGERS)
