"""The ids of a result, its parents and its members, as rows: no depth grows with a workflow.

A long chain in nested pairs would be as deep as it is long, and what writes, reads or compares
such values ends the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import orjson

from cloudq.errors import DecodeError

Row = tuple[str, int | None, list[int] | None]
"""An id, the index of the row before it in its chain, and the indices of a group's members."""

Outline = list[Row]
"""Rows, each after those that it names; the last is the result itself."""

# Each reader of a record pays for the ids of the children in it, so they are limited.
_KEPT = 100


def to_json(outline: Outline) -> Any:
    """Return an outline as JSON values."""
    return {"rows": outline}


def from_json(made: Any) -> Outline:
    """Read an outline, also one in pairs, `((id, before), members)`, as `as_tuple` gives."""
    if isinstance(made, dict):
        rows = cast("dict[str, Any]", made)["rows"]
        return [(str(id), before, members) for id, before, members in rows]
    rows: Outline = []
    _add_pairs(rows, made)
    return rows


def checked(outline: Outline) -> Outline:
    """Return an outline whose rows name rows before them. Raises `ValueError` for any other."""
    if not outline:
        raise ValueError("no ids")
    for place, (_, above, members) in enumerate(outline):
        named = ([] if above is None else [above]) + list(members or ())
        if not all(type(row) is int and 0 <= row < place for row in named):
            raise ValueError(f"row {place} names rows that are not before it")
    return outline


def outlines_in(text: str) -> list[Outline]:
    """Read the outlines that a record keeps. Raises `DecodeError`."""
    try:
        return [checked(from_json(made)) for made in orjson.loads(text) if made is not None]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the ids of what a task has started cannot be read: {error}") from error


def _add_pairs(rows: Outline, made: Any) -> int:
    chain: list[tuple[str, Any]] = []
    while made is not None:
        (id, above), members = made
        chain.append((str(id), members))
        made = above
    before: int | None = None
    for id, members in reversed(chain):
        inside = None if members is None else [_add_pairs(rows, m) for m in members if m]
        before = add_row(rows, id, before, inside)
    return cast("int", before)


def add_row(rows: Outline, id: str, before: int | None, members: list[int] | None = None) -> int:
    """Add a row, and return its index."""
    rows.append((id, before, members))
    return len(rows) - 1


def spine(rows: Outline, index: int) -> list[int]:
    """Return the indices of a row and of all rows before it in its chain, in their order."""
    found: list[int] = []
    at: int | None = index
    while at is not None:
        found.append(at)
        at = rows[at][1]
    return found[::-1]


def brief(started: Sequence[Outline]) -> list[Any]:
    """Cut outlines to the number of ids that a record keeps, and return them as JSON values."""
    made: list[Any] = []
    left = _KEPT
    for outline in started:
        if left <= 0:
            break
        kept = _first(outline, left)
        left -= len(kept)
        made.append(to_json(_cut(outline, kept)))
    return made


def _first(outline: Outline, most: int) -> set[int]:
    """Choose the rows to keep: the result, the first of its chain, then members of its groups."""
    if len(outline) <= most:
        return set(range(len(outline)))
    kept: set[int] = set()
    waiting = deque([len(outline) - 1])
    while waiting and len(kept) < most:
        *earlier, end = spine(outline, waiting.popleft())
        chosen = [*earlier[: most - len(kept) - 1], end]
        kept.update(chosen)
        for index in chosen:
            waiting.extend(outline[index][2] or ())
    return kept


def _cut(outline: Outline, kept: set[int]) -> Outline:
    if len(kept) == len(outline):
        return outline
    places = {index: place for place, index in enumerate(sorted(kept))}

    def before(at: int | None) -> int | None:
        while at is not None and at not in kept:
            at = outline[at][1]
        return None if at is None else places[at]

    return [
        (id, before(above), None if members is None else [places[m] for m in members if m in kept])
        for id, above, members in (outline[index] for index in sorted(kept))
    ]
