"""The order of tests among the processes of a run: what waits for others begins first.

xdist gives each process one stretch of the tests, and to one that has ended its own half of what
another has left. So the files that start servers or programs, and mostly wait, stand at the
beginning of all stretches in turn. What comes last, and is passed on, is short and never waits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.quick import MARKERS, is_of_a_cloud

_HERE = Path(__file__).parent
_WAITING = ("cli", "deploy", "docs", "functions", "localstack", "schedules", "worker")
"""The rooms whose tests start programs."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests into the order of their stretches, which is the same in each process."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1:
        items[:] = stretched(items, count)


def stretched(items: Sequence[pytest.Item], count: int) -> list[pytest.Item]:
    """Return the tests in `count` stretches of one length, each with its share of long files."""
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    is_long = [_is_long(tests) for tests in files]
    long = sorted((f for f, waits in zip(files, is_long, strict=True) if waits), key=len)[::-1]
    short = [t for tests, waits in zip(files, is_long, strict=True) if not waits for t in tests]
    order: list[pytest.Item] = []
    for number in range(count):
        length = (len(items) - len(order)) // (count - number)
        stretch = [item for tests in long[number::count] for item in tests]
        missing = max(0, length - len(stretch))
        order += stretch + short[:missing]
        del short[:missing]
    assert len(order) + len(short) == len(items)
    return order + short


def _is_long(tests: Sequence[pytest.Item]) -> bool:
    path = tests[0].path
    return (
        path.relative_to(_HERE).parts[0] in _WAITING
        or is_of_a_cloud(path.read_text())
        or any(item.get_closest_marker(name) for item in tests for name in MARKERS)
    )
