"""Tasks that run in an Azure function app, fed by a Service Bus trigger; one is sent by a timer.

docs/how-to/run-on-azure.md tells how to deploy it by hand. Broker and backend come from the app
settings:
CLOUDQ_BROKER=servicebus://NAMESPACE, CLOUDQ_BACKEND=aztables://ACCOUNT/cloudq, and the namespace
once more for the host as ServiceBusConnection__fullyQualifiedNamespace.
"""

from __future__ import annotations

import azure.functions as func

from cloudq import CloudQ, Task
from cloudq_azure import Timer, register

app = CloudQ("azure-function")


class ServiceDown(Exception):
    """The error of a payment service that is down."""


@app.task(bind=True, max_retries=3, autoretry_for=(ServiceDown,), default_retry_delay=0)
def charge(self: Task[..., int], order: int, failures: int = 0) -> int:
    """Charge an order; the first `failures` tries find the service down and are retried."""
    if self.request.retries < failures:
        raise ServiceDown(f"order {order}, try {self.request.retries + 1}")
    return order * 100


@app.task
def report(day: str = "today") -> str:
    """Sum up a day; the timer below sends it each night."""
    return f"the report of {day}"


function_app = func.FunctionApp()
register(
    function_app,
    app,
    timers={"nightly": Timer(schedule="0 0 3 * * *", task="function_app.report")},
)
