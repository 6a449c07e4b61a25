"""Apps whose tasks run in functions, on an embedded broker that nobody else has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudq import CloudQ
from tests.servers import unique


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., CloudQ]]:
    """Makes apps on one embedded file, but for the settings given."""
    made: list[CloudQ] = []

    def make(**settings: object) -> CloudQ:
        values = {
            "broker": f"sqlite:///{tmp_path}/functions.db",
            "task_default_queue": "orders",
            "default_retry_delay": 0.0,
        }
        app = CloudQ(unique("functions"), **(values | settings))
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., CloudQ]) -> CloudQ:
    return make_app()
