"""Reads the times and spans of options: 90s, 10m, 2h or 3d, or a time such as 2026-11-20T10:00."""

from __future__ import annotations

import re
import time
from datetime import datetime

from cloudq.errors import ConfigurationError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)", re.ASCII)


def span(option: str, given: str | None) -> float | None:
    """Read a span as seconds; None for none. Raises `ConfigurationError`."""
    if given is None:
        return None
    found = _SPAN.fullmatch(given.strip())
    if found is None:
        raise ConfigurationError(f"{option} {given}: give a span such as 90s, 10m, 2h or 3d")
    return float(found[1]) * _UNITS[found[2]]


def moment(option: str, given: str | None) -> float | None:
    """Read a moment, or the span since, as epoch seconds; None for none.

    Raises `ConfigurationError`.
    """
    if given is None:
        return None
    found = _SPAN.fullmatch(given.strip())
    if found is not None and found[2]:
        return time.time() - float(found[1]) * _UNITS[found[2]]
    try:
        return datetime.fromisoformat(given).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"{option} {given}: give a span such as 90s, 10m, 2h or 3d, "
            "or a time such as 2026-11-20T10:00"
        ) from error
