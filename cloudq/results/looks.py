"""Looks at the store for those who wait for results, in few reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from cloudq.errors import WaitInTask
from cloudq.results.backend import Backend
from cloudq.results.lineage import failed_of, front_of
from cloudq.results.looker import LOOK_EVERY
from cloudq.results.record import Record
from cloudq.results.waiting import Wait


async def ended_of(
    wait: Wait | None, backend: Backend, results: Sequence[Any]
) -> Mapping[str, Record]:
    """Wait until one of these tasks has ended; where nobody may wait, see if one has."""
    from asyncio import wait_for

    calls = {one.id: one.call for one in results}
    try:
        if wait is not None:
            wait.begin()
    except WaitInTask:
        try:
            return await wait_for(backend.looker.ended(calls), LOOK_EVERY)
        except TimeoutError:
            pass
        raise
    return await backend.looker.ended(calls)


def lost(
    waiting: deque[Any],
    before: dict[str, deque[Any]],
    ended: dict[str, Record],
    backend: Backend,
) -> bool:
    """Mark tasks failed that cannot start because an earlier one failed; tell if there were any.

    Of a long chain it looks at the few steps that may be running, and never again at what has
    succeeded.
    """
    found = False
    looked = deque(waiting)
    while looked:
        fronts = {each.id: front_of(before.get(each.id)) for each in looked}
        unknown = {one.id: one for front in fronts.values() for one in front if one.final is None}
        records = backend.records(list(unknown)) if unknown else {}
        for id, one in unknown.items():
            one.keep(records.get(id))
        for result in list(looked):
            finals = [one.final for one in fronts[result.id]]
            failed = failed_of(fronts[result.id])
            if failed is not None:
                ended[result.id] = failed
                waiting.remove(result)
                found = True
            if failed is not None or not finals or None in finals:
                looked.remove(result)
    return found


def unended(first: str, waiting: int, asked: int, timeout: float | None) -> str:
    """Say for the caller that tasks had not ended, and what to look for."""
    if asked == 1:
        return f"task {first} had not ended after {timeout:g} s: is a worker running on its queue?"
    few = f"{waiting} of {asked} tasks had not ended after {timeout:g} s, the first of them {first}"
    return f"{few}: is a worker running on their queue?"
