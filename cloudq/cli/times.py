"""Reads the times and spans of options: 90s, 10m, 2h or 3d, or a time such as 2026-11-20T10:00."""

from __future__ import annotations

import time
from datetime import datetime

from cloudq import amounts
from cloudq.errors import ConfigurationError


def span(option: str, given: str | None) -> float | None:
    """Read a span as seconds; None for none. Raises `ConfigurationError`."""
    if given is None:
        return None
    found = (
        amounts.span(f"{given.strip()}s") if given.strip()[-1:].isdigit() else amounts.span(given)
    )
    if found is None:
        raise ConfigurationError(f"{option} {given}: give a span such as 90s, 10m, 2h or 3d")
    return found


def moment(option: str, given: str | None) -> float | None:
    """Read a moment, or the span since, as epoch seconds; None for none.

    Raises `ConfigurationError`.
    """
    if given is None:
        return None
    found = amounts.span(given)
    if found is not None:
        return time.time() - found
    try:
        return datetime.fromisoformat(given).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"{option} {given}: give a span such as 90s, 10m, 2h or 3d, "
            "or a time such as 2026-11-20T10:00"
        ) from error
