"""The names of `celery.app.control`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cloudq.contrib.celery.control import Control, Inspect

__all__ = ["Control", "Inspect", "flatten_reply"]


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return replies of workers, a list of dictionaries, as one by the workers' names."""
    return {host: said for each in reply for host, said in each.items()}
