"""Fixtures of the tests of limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.bench import Bench


@pytest.fixture
def app() -> Iterator[Bench]:
    """An app in memory whose services can fail; retries follow without delay."""
    with Bench(default_retry_delay=0.0) as bench:
        yield bench
