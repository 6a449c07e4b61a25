"""Orders: lines are priced at the same time, then added up and billed."""

from __future__ import annotations

from typing import Any

from cloudq.contrib.celery import Task, chain, chord, group
from shop import billing
from shop.app import app

PRICES = {"mug": 12, "tea": 7, "pot": 30}


@app.task
def price(item: str, count: int) -> int:
    """Compute the price of a line of an order."""
    if item not in PRICES:
        raise LookupError(f"we sell no {item}")
    return PRICES[item] * count


@app.task
def total(amounts: list[int], shipping: int = 0) -> int:
    """The sum of an order."""
    return sum(amounts) + shipping


@app.task
def invoice(amount: int, customer: str) -> dict[str, Any]:
    """Write the invoice for the customer."""
    return {"customer": customer, "amount": amount}


def order(customer: str, lines: list[list[Any]]) -> Any:
    """The workflow of an order: prices its lines, charges the sum and writes the invoice."""
    priced = chord([price.s(item, count) for item, count in lines], total.s(shipping=5))
    workflow: chain[Any] = chain(priced, billing.charge.s(customer), invoice.s(customer))
    return workflow


@app.task(bind=True)
def place(self: Task[..., Any], customer: str, lines: list[list[Any]]) -> Any:
    """Take an order: this task becomes its workflow, and what that comes to."""
    raise self.replace(order(customer, lines))


def quotes(orders: list[list[list[Any]]]) -> Any:
    """The sums of some orders, each a chord in a group."""
    return group(
        chord([price.s(item, count) for item, count in lines], total.s()) for lines in orders
    )
