"""Reports: many small sums, and what is to run every day."""

from __future__ import annotations

from typing import Any

from cloudq.contrib.celery import shared_task
from shop import journal


@shared_task
def sales(rows: list[list[Any]]) -> dict[str, int]:
    """Count the sales of each item."""
    sold: dict[str, int] = {}
    for item, count in rows:
        sold[item] = sold.get(item, 0) + count
    return sold


@shared_task(name="shop.reports.late", ignore_result=True)
def late_orders() -> None:
    """Writes down that it looked."""
    journal.write("looked for late orders")


@shared_task
def add(a: int, b: int) -> int:
    """The smallest of all reports."""
    return a + b


@shared_task
def note(value: Any, topic: str) -> None:
    """Write down what another task has come to."""
    journal.write(f"{topic} {value}")
