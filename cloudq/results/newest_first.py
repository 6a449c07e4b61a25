"""Sort keys that count down, so that a query, which goes up, begins with the newest item."""

from __future__ import annotations

# Microseconds: until the year 2286.
_END = 9_999_999_999_999_999


def sort_of(at: float, id: str = "", retries: int = 0) -> str:
    """Return the sort key of what was at a time; without an id it sorts before all others of it."""
    return f"{_END - round(at * 1_000_000):016d}#{retries}#{id}"


def time_in(sort: str) -> float:
    """Return the time in a sort key. Raises `ValueError` for another text."""
    return (_END - int(sort.partition("#")[0])) / 1_000_000
