"""Finds the queue that is meant where nearly its name is given."""

from __future__ import annotations

from collections.abc import Iterable

_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")


def near_queue(queue: str, known: Iterable[str]) -> str | None:
    """Return the one of these queues that nearly has this name; None for one of them.

    Names that differ by digits alone, as `mail` and `mail2` do, are two queues.
    """
    from difflib import get_close_matches

    names = set(known)
    if queue in names:
        return None
    close = get_close_matches(queue, sorted(names), n=1, cutoff=0.7)
    return next((name for name in close if _letters(name) != _letters(queue)), None)


def _letters(name: str) -> str:
    return name.translate(_WITHOUT_DIGITS)
