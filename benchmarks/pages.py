"""The dashboard: server time of each page over 100,000 recorded tasks and 1,000 dead letters."""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from harness import Figure

from cloudq import CloudQ
from cloudq.dashboard.access import Access
from cloudq.dashboard.render import prepare
from cloudq.dashboard.site import Site
from cloudq.dashboard.views import VIEWS
from cloudq.messages.message import new_id
from cloudq.operations import dead_letters
from cloudq.results.record import Record, State
from cloudq.testing import drain

RECORDED, LETTERS = 100_000, 1_000
# A look is made anew after so many seconds.
REFRESH = 0.5
TARGET = 100.0


def measure(quick: bool) -> Iterator[Figure]:
    """Each page with its looks made anew, and with looks that another page has just made."""
    recorded = RECORDED // 10 if quick else RECORDED
    with (
        tempfile.TemporaryDirectory() as folder,
        CloudQ("shop", broker=f"sqlite:///{folder}/shop.db", default_retry_delay=0.0) as app,
    ):
        failed = _fill(app, recorded, LETTERS)
        letter = dead_letters.search(app, limit=1).letters[0].peeked.id
        prepare()
        asgi = Site(app, access=Access(), refresh=REFRESH).asgi(())
        queries = {
            "task": f"id={failed}",
            "queue": "name=default&peek=1",
            "letter": f"queue=default&id={letter}",
        }
        for view in VIEWS:
            if view.name == "worker":  # it waits for the worker's own reply
                continue
            query = queries.get(view.name, "")
            anew, again = asyncio.run(_times(asgi, view.path, query, 3 if quick else 15))
            yield Figure(
                what=f"page {view.path}, looks made anew",
                value=statistics.median(anew),
                unit="ms",
                target=TARGET,
                note=f"{recorded:,} tasks, {LETTERS:,} dead; slowest {max(anew):.0f} ms; "
                f"looks of a moment ago {statistics.median(again):.1f} ms",
            )


def _fill(app: CloudQ, recorded: int, letters: int) -> str:
    """Record ends of the last hours, bury letters, and return the id of a task that failed."""

    @app.task(name="shop.charge", dead_letter=True, max_retries=0)
    def charge(order: int) -> None:
        raise ValueError(f"card of order {order % 10} was refused")

    logging.getLogger("cloudq").setLevel(logging.ERROR)  # else it tells of each failure
    app.publish([charge.prepare(number) for number in range(letters)])
    ids = [settlement.record.id for settlement in drain(app) if settlement.record is not None]
    backend, now = app.control.backend, time.time()
    assert backend.history is not None
    for start in range(0, recorded, 1000):
        records = [_record(number, now - recorded / 10) for number in range(start, start + 1000)]
        backend.store(records)
        backend.put([item for record in records for item in backend.history.items(record)])
    return ids[0]


def _record(number: int, begin: float) -> Record:
    is_good = number % 50 > 0
    return Record(
        id=new_id(),
        state=State.SUCCESS if is_good else State.FAILURE,
        task=f"shop.task{number % 20}",
        error_type=None if is_good else "ValueError",
        queue="default",
        worker="w",
        started_at=begin + number / 10,
        finished_at=begin + number / 10,
    )


async def _times(asgi: Any, path: str, query: str, rounds: int) -> tuple[list[float], list[float]]:
    """Ask for a page, anew and once more at once; return the milliseconds of both."""
    await _get(asgi, path, query)  # its template is compiled then
    anew: list[float] = []
    again: list[float] = []
    for _ in range(rounds):
        await asyncio.sleep(REFRESH * 1.2)
        anew.append(await _get(asgi, path, query))
        again.append(await _get(asgi, path, query))
    return anew, again


async def _get(asgi: Any, path: str, query: str) -> float:
    """Return the milliseconds until a page is sent whole."""
    status: list[int] = []

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        status.append(message.get("status", 0))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1:5555")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 5555),
        "state": {},
    }
    begin = time.perf_counter()
    await asgi(scope, receive, send)
    took = (time.perf_counter() - begin) * 1000
    assert status[0] == 200, (path, status)
    return took
