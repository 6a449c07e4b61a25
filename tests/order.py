"""The order of tests among the processes of a run: what takes long begins first.

xdist gives each process one stretch of the tests, and to one that has ended its own half of what
another has left. So the files whose tests start workers, or take seconds, stand at the beginning of
all stretches in turn; what comes last, and is passed on, is short.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.quick import MARKERS

_WORKERS = Path(__file__).parent / "worker"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests into the order of their stretches, which is the same in each process."""
    items[:] = stretched(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def stretched(items: Sequence[pytest.Item], count: int) -> list[pytest.Item]:
    """Return the tests in `count` stretches of one length, each with its share of long files."""
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    long = [tests for tests in files if any(map(_is_long, tests))]
    short = [item for tests in files if tests not in long for item in tests]
    order: list[pytest.Item] = []
    for number in range(count):
        length = (len(items) - len(order)) // (count - number)
        stretch = [item for tests in long[number::count] for item in tests]
        missing = max(0, length - len(stretch))
        order += stretch + short[:missing]
        del short[:missing]
    assert len(order) + len(short) == len(items)
    return order + short


def _is_long(item: pytest.Item) -> bool:
    return item.path.is_relative_to(_WORKERS) or any(map(item.get_closest_marker, MARKERS))
