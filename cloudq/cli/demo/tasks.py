"""Tasks that index text files and add up the indexes, and tasks that fail or kill their process."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from keyword import kwlist
from pathlib import Path

from cloudq import CloudQ, Task

app = CloudQ("demo", task_default_queue="demo")

_CALL = re.compile(r"\b([A-Za-z_]\w*)\(")
_KEPT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Index of one or more files; `called` counts the names before an opening bracket."""

    files: int
    lines: int
    words: int
    called: dict[str, int]
    sha256: str


@app.task
def index(path: str) -> Index:
    """Index one file."""
    content = Path(path).read_bytes()
    text = content.decode(errors="replace")
    called = Counter(name for name in _CALL.findall(text) if name not in kwlist)
    return Index(
        files=1,
        lines=text.count("\n"),
        words=len(text.split()),
        called=dict(called.most_common(_KEPT)),
        sha256=hashlib.sha256(content).hexdigest(),
    )


@app.task
def summarize(parts: list[Index]) -> Index:
    """Add up indexes."""
    called: Counter[str] = Counter()
    for part in parts:
        called.update(part.called)
    return Index(
        files=sum(part.files for part in parts),
        lines=sum(part.lines for part in parts),
        words=sum(part.words for part in parts),
        called=dict(called.most_common(_KEPT)),
        sha256=hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest(),
    )


@app.task(
    bind=True, autoretry_for=[ConnectionError], max_retries=3, retry_backoff=0.2, retry_jitter=False
)
def unsteady(self: Task[..., str], failures: int) -> str:
    """Fail a number of times, as a service that is briefly down, then succeed."""
    if self.request.retries < failures:
        raise ConnectionError(f"down at try {self.request.retries + 1}")
    return f"up at try {self.request.retries + 1}"


@app.task
def square(number: int) -> int:
    """Square a number: one of the members of a chord."""
    return number * number


@app.task
def total(numbers: list[int]) -> int:
    """Add up the members' values: the body of a chord."""
    return sum(numbers)


@app.task(bind=True)
def deadly(self: Task[..., int], number: int) -> int:
    """Return the number; at its first delivery 0 kills its process, as a lack of memory does."""
    time.sleep(0.2)
    if number == 0 and self.request.attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
