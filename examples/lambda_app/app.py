"""Tasks that run in an AWS Lambda function, fed by an SQS queue.

The function's handler is `app.handler`; docs/how-to/run-in-lambda.md tells how to deploy it by
hand. Broker and backend come from the environment: CLOUDQ_BROKER=sqs://, CLOUDQ_BACKEND=dynamodb://cloudq.
"""

from __future__ import annotations

import os
import time

from cloudq import CloudQ, Task
from cloudq.errors import Reject
from cloudq.tasks.request import Call, Context
from cloudq_aws import lambda_handler


def counted(call: Call) -> Call:
    """Write each execution into the file that LEDGER names, if it names one."""

    def run(context: Context) -> object:
        ledger = os.environ.get("LEDGER")
        if ledger:
            with open(ledger, "a") as file:
                file.write(f"{context.request.task} {context.request.id}\n")
        return call(context)

    return run


app = CloudQ("lambda-app", middleware=[counted])


class ServiceDown(Exception):
    """The error of a payment service that is down."""


@app.task(bind=True, max_retries=3, autoretry_for=(ServiceDown,), default_retry_delay=0)
def charge(self: Task[..., int], order: int, failures: int = 0) -> int:
    """Charge an order; the first `failures` tries find the service down and are retried."""
    if self.request.retries < failures:
        raise ServiceDown(f"order {order}, try {self.request.retries + 1}")
    return order * 100


@app.task(bind=True)
def pick(self: Task[..., int], order: int, busy: int = 0) -> int:
    """Pick an order; the first `busy` deliveries are put back into the queue as they are."""
    if self.request.attempts <= busy:
        raise Reject(f"order {order}: the warehouse is busy", requeue=True)
    return order + 1


@app.task
def print_label(order: int, seconds: float) -> int:
    """Wait for a printer; no limit interrupts a sleep, so the function's own timeout may end it."""
    time.sleep(seconds)
    return order


handler = lambda_handler(app)
