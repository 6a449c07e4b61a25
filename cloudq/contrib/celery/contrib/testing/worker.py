"""The names of `celery.contrib.testing.worker`."""

from __future__ import annotations

from typing import Any

from cloudq.contrib.celery.missing import names_of
from cloudq.contrib.celery.testing import TestWorker as TestWorkController
from cloudq.contrib.celery.testing import start_worker

__all__ = ["TestWorkController", "start_worker"]


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
