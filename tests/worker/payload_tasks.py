"""The app of the tests of large payloads: each task says what it was given."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from cloudq import CloudQ, File, Reject
from tests.worker.drill_tasks import note

app = CloudQ("payloads")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@app.task
def take(number: int, data: bytes) -> str:
    note(number)
    return f"{number} {digest(data)}"


@app.task(ignore_result=True)
def swallow(number: int, data: bytes) -> None:
    note(f"{number} {digest(data)}")


@app.task
def give(size: int) -> bytes:
    return bytes([size % 251]) * size


@app.task
def same(value: Any) -> Any:
    return value


@app.task
def measure(*values: Any) -> list[int]:
    given: Any = values[0] if len(values) == 1 and isinstance(values[0], list) else values  # pyright: ignore[reportUnknownVariableType]
    return [len(value) for value in given]


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def third(self: Any, data: bytes) -> str:
    """Succeeds when it is tried for the third time."""
    note(digest(data))
    if self.request.retries < 2:
        raise self.retry()
    return digest(data)


@app.task
def fail(data: bytes) -> None:
    raise ValueError(f"{len(data)} bytes are of no use")


@app.task
def refuse(data: bytes) -> None:
    note(digest(data))
    if os.path.exists(os.environ["DRILL_LEDGER"] + ".go"):
        return
    raise Reject("not now")


@app.task
def shorten(file: File, size: int) -> File:
    with file.open() as opened:
        return File.from_bytes(opened.read(size), f"short-{file.name}")
