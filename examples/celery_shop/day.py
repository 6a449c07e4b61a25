"""A day in the shop: sends every kind of work, and prints what came of it as JSON.

Start a worker first: `cloudq celery -A shop.app worker -l INFO -Q shop,billing`.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from shop import billing, journal, orders, reports
from shop.app import app

from cloudq.contrib.celery import chain, chord, group, signature
from cloudq.contrib.celery.result import AsyncResult

WAIT = 30.0


def day() -> dict[str, Any]:
    """Run each kind of work and return the results, as plain data."""
    lines = [["mug", 2], ["tea", 1]]
    came: dict[str, Any] = {}
    came["order"] = orders.place.delay("alice", lines).get(timeout=WAIT)
    came["declined order"] = _failure(orders.order("mallory", lines).delay())
    came["unknown item"] = _failure(orders.order("alice", [["hat", 1], ["mug", 1]]).delay())
    came["quotes"] = orders.quotes([lines, [["pot", 1], ["tea", 2]]]).apply_async().get(WAIT)

    came["settled"] = billing.settle.delay(10, downs=2).get(timeout=WAIT)
    unsettled = billing.settle.delay(10, downs=9)
    came["not settled"] = [_failure(unsettled), str(unsettled.state), unsettled.failed()]
    came["refund"] = _failure(billing.refund.delay(7))
    came["reminder"] = billing.remind.delay().get(timeout=WAIT)

    came["chain"] = (reports.add.s(1, 2) | reports.add.s(10) | reports.add.s(100)).delay().get(WAIT)
    came["immutable"] = chain(reports.add.s(1, 2), reports.add.si(5, 5)).delay().get(WAIT)
    came["chunks"] = reports.add.chunks([(i, i) for i in range(5)], 2).apply_async().get(WAIT)
    came["starmap"] = reports.add.starmap([(1, 1), (2, 3)]).delay().get(WAIT)
    many = group(reports.add.s(i, i) for i in range(4)).delay()
    came["group"] = [many.get(WAIT), many.completed_count(), many.successful()]
    came["nested"] = (
        group(
            chain(reports.add.s(1, 1), reports.add.s(1)),
            chord([reports.add.s(2, 2), reports.add.s(3, 3)], orders.total.s(shipping=1)),
        )
        .delay()
        .get(WAIT)
    )
    came["chord of chains"] = chord(
        [reports.add.s(n, n) | reports.add.s(1) for n in range(3)], orders.total.s()
    )().get(WAIT)

    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    came["eta"] = reports.add.apply_async((1, 2), eta=soon).get(timeout=WAIT)
    came["by name"] = app.send_task("shop.reports.sales", [[["tea", 1], ["tea", 4]]]).get(WAIT)
    came["signature"] = signature("shop.reports.add", args=(4,), kwargs={"b": 5}).delay().get(WAIT)
    linked = reports.add.apply_async((3, 4), link=reports.note.s("linked"))
    came["link"] = linked.get(timeout=WAIT)
    found = AsyncResult(linked.id)
    came["state"] = [str(found.state), found.ready(), found.successful(), found.result]
    reports.late_orders.delay()

    came["beat"] = sorted(app.conf.beat_schedule)
    came["settings"] = [app.conf.timezone, app.conf["task_default_queue"]]
    came["direct call"] = reports.add(20, 22)
    came["eager"] = reports.add.apply((1, 1)).get()
    came["journal"] = _journal(lines=15)
    return came


def _failure(result: Any) -> str:
    """The class of what a result raises."""
    try:
        return f"returned {result.get(timeout=WAIT)!r}"
    except Exception as error:
        return type(error).__name__


def _journal(lines: int) -> list[str]:
    """The journal, once it has as many lines; hooks and callbacks may be later than results."""
    until = time.monotonic() + WAIT
    while len(journal.lines()) < lines and time.monotonic() < until:
        time.sleep(0.05)
    return journal.lines()


if __name__ == "__main__":
    print(json.dumps(day(), indent=1, sort_keys=True))
