"""Ordered groups: the steps of one order run one after the other, those of others beside them.

    cloudq worker -A orders_fifo -Q orders.fifo
    python orders_fifo.py

On AWS first make the queue: `cloudq queues create orders.fifo`.
"""

from __future__ import annotations

import time
from enum import Enum

from cloudq import CloudQ, wait_for

app = CloudQ("orders")


class Step(Enum):
    """The steps of an order, in sequence."""

    PLACED = "placed"
    PAID = "paid"
    PACKED = "packed"
    SHIPPED = "shipped"


@app.task(queue="orders.fifo")
def advance(order: str, step: Step) -> float:
    """Do one step of an order; returns when it was done."""
    assert isinstance(step, Step)  # the type hint has made it one again
    time.sleep(0.02)
    return time.time()


def main() -> None:
    """Send the steps of three orders, and print in which order they were done."""
    orders = ("A", "B", "C")
    names = [(order, step) for step in Step for order in orders]
    results = app.publish(
        # The second key keeps a step out that is sent twice within five minutes.
        advance.options(group_key=order, dedup_key=f"{order}-{step.value}").prepare(order, step)
        for order, step in names
    )
    wait_for(results, timeout=60)
    done = {name: result.get() for name, result in zip(names, results, strict=True)}
    for order in orders:
        steps = sorted(Step, key=lambda step: done[order, step])
        print(f"order {order}: {', '.join(step.value for step in steps)}")


if __name__ == "__main__":
    main()
