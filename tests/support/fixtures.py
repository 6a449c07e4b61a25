"""Apps in memory and on SQLite for the tests of every room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq import CloudQ
from tests.support.bench import Bench
from tests.support.forge import Forge


@pytest.fixture
def app() -> Iterator[Bench]:
    """An app in memory whose services can fail; retries follow without delay."""
    with Bench(default_retry_delay=0.0) as bench:
        yield bench


@pytest.fixture(params=["memory", "sqlite"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudQ]:
    """An app on each of the embedded brokers, as a user makes one."""
    url = f"memory://{tmp_path.name}" if request.param == "memory" else f"sqlite:///{tmp_path}/q.db"
    with CloudQ("plain", broker=url, default_retry_delay=0.0) as made:
        yield made


@pytest.fixture(scope="session")
def forge(isolated: pytest.MonkeyPatch) -> Iterator[Forge]:
    """Real processes of `cloudq`, for a tenth of their price."""
    made = Forge()
    yield made
    made.close()
