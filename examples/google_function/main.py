"""Tasks that run in a Cloud Run function, fed by a Pub/Sub trigger.

    functions-framework --target handler

docs/how-to/run-on-google-cloud.md tells how to deploy it by hand. Broker and backend come from the
environment:
CLOUDQ_BROKER=pubsub://PROJECT, CLOUDQ_BACKEND=firestore://PROJECT/cloudq.
"""

from __future__ import annotations

import functions_framework

from cloudq import CloudQ, Task
from cloudq_gcp import cloud_event_handler

app = CloudQ("google-function")


class ServiceDown(Exception):
    """The error of a payment service that is down."""


@app.task(bind=True, max_retries=3, autoretry_for=(ServiceDown,), default_retry_delay=0)
def charge(self: Task[..., int], order: int, failures: int = 0) -> int:
    """Charge an order; the first `failures` tries find the service down and are retried."""
    if self.request.retries < failures:
        raise ServiceDown(f"order {order}, try {self.request.retries + 1}")
    return order * 100


handler = functions_framework.cloud_event(cloud_event_handler(app))
