"""Walks from a result to those before it in its workflow, in loops: chains may be long."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from cloudq.results.record import Record, State

# The results before one that a look asks for: those of a chain end one after the other.
_AHEAD = 10
# Those of a chain that are revoked at a time, where a store takes many changes at once.
_TOGETHER = 256


def parents_of(result: Any) -> list[Any]:
    """Return the results before one in its chain, the nearest first."""
    found: list[Any] = []
    while (result := result.parent) is not None:
        found.append(result)
    return found


def paired(result: Any) -> tuple[Any, ...]:
    """Return the ids of a result and of those before it in Celery's form."""
    made: tuple[Any, ...] | None = None
    for each in reversed([result, *parents_of(result)]):
        made = (each.id, made), each.member_tuples()
    return cast("tuple[Any, ...]", made)


def revoked_of(result: Any) -> list[str]:
    """Revoke a result and those before it, the last first; return the ids that had not ended.

    What is before a task that has ended has ended too.
    """
    revoked: list[str] = []
    line = [result, *parents_of(result)]
    for each, marked in zip(line, _marks(line), strict=True):
        own = each.revoke_own(marked)
        if own is None:
            break
        revoked += own
    return revoked


def _marks(line: list[Any]) -> Iterator[Record | None]:
    """Mark results as revoked, some at a time as they are asked for; None for the others."""
    for start in range(0, len(line), _TOGETHER):
        part = line[start : start + _TOGETHER]
        marks: dict[str, Record] = {}
        single = [one for one in part if one.member_tuples() is None and one.final is None]
        if len(single) > 1:
            marks = single[0].backend.revoke_together([one.id for one in single])
        for one in part:
            yield marks.get(one.id)


def failed_of(results: Iterable[Any]) -> Record | None:
    """Return the record of the first that is known to have ended without success."""
    finals: list[Record | None] = [one.final for one in results]
    return next((f for f in finals if f and f.state is not State.SUCCESS), None)


def front_of(before: deque[Any] | None) -> list[Any]:
    """Drop the first results that have succeeded, and return the next few."""
    while before and (final := before[0].final) is not None and final.state is State.SUCCESS:
        before.popleft()
    return list(islice(before or (), _AHEAD))
