"""In this room all calls follow each other closely, on a busy machine too."""

from __future__ import annotations

import pytest

from cloudq.messages import ids


@pytest.fixture(autouse=True)
def long_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no pause between two calls end a series."""
    monkeypatch.setattr(ids, "_SHORTLY", 3600.0)
    monkeypatch.setattr(ids, "_LONGEST", 3600.0)
