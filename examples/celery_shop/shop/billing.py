"""Billing: a gateway that is down at times, and cards that are declined."""

from __future__ import annotations

from typing import Any

from cloudq.contrib.celery import Task, get_task_logger, shared_task
from cloudq.contrib.celery.exceptions import MaxRetriesExceededError
from cloudq.contrib.celery.signals import task_failure, task_retry
from shop import journal

log = get_task_logger(__name__)


class CardDeclined(Exception):
    """The bank says no."""


class GatewayDown(Exception):
    """The bank says nothing."""


class Audited(Task):  # pyright: ignore[reportMissingTypeArgument] (Celery's has none)
    """Tasks whose successes are written into the journal."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        journal.write(f"audited {self.name} {retval}")


@shared_task(base=Audited, acks_late=True)
def charge(amount: int, customer: str) -> int:
    """Charge a customer; the amount is charged or an exception says why not."""
    if customer == "mallory":
        raise CardDeclined(f"{customer} owes us {amount}")
    log.info("charged %s", customer)
    return amount


@shared_task(bind=True, max_retries=3, default_retry_delay=0)
def settle(self: Task[..., Any], amount: int, downs: int) -> dict[str, Any]:
    """Settle with a gateway that is down for the first `downs` tries."""
    if self.request.retries < downs:
        raise self.retry(exc=GatewayDown(f"down at try {self.request.retries + 1}"), countdown=0)
    where = self.request.delivery_info["routing_key"]
    return {"amount": amount, "retries": self.request.retries, "queue": where}


@shared_task(autoretry_for=(GatewayDown,), retry_kwargs={"max_retries": 2, "countdown": 0})
def refund(amount: int) -> None:
    """Never gets through."""
    raise GatewayDown(f"{amount} not refunded")


@shared_task(bind=True, max_retries=1)
def remind(self: Task[..., Any]) -> str:
    """Gives up after one more try."""
    try:
        raise self.retry(countdown=0)
    except MaxRetriesExceededError:
        return f"gave up after {self.request.retries}"


@task_failure.connect
def failed(sender: Any = None, exception: BaseException | None = None, **more: Any) -> None:
    """Told of every task that has failed for good."""
    journal.write(f"failed {sender.name} {type(exception).__name__}")


@task_retry.connect
def retried(sender: Any = None, **more: Any) -> None:
    """Told of every try but the last."""
    journal.write(f"retried {sender.name}")
