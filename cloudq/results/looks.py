"""Looks at the store for those who wait for results, in few reads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from math import inf
from typing import Any

from cloudq.driver import Watcher
from cloudq.errors import ResultTimeout, WaitInTask
from cloudq.results.backend import Backend
from cloudq.results.lineage import failed_of, front_of
from cloudq.results.looker import LOOK_EVERY
from cloudq.results.pauses import Poller, Waited
from cloudq.results.record import Record
from cloudq.results.waiting import Wait, refuse_vain


def read_all(
    backend: Backend, results: Sequence[Any], *, consistent: bool = True
) -> dict[str, Record]:
    """Read the records of results, also where an id has had another call before."""
    own = any(one.call is not None for one in results)
    return backend.records([one.id for one in results], consistent=consistent, own=own)


async def ended_of(
    wait: Wait | None, backend: Backend, results: Sequence[Any]
) -> Mapping[str, Record]:
    """Wait until one of these tasks has ended; where nobody may wait, see if one has."""
    from asyncio import wait_for

    calls = {one.id: one.call for one in results}
    at_once = wait is not None or backend.wakes
    pauses = backend.usual.pauses([_waited(one) for one in results], at_once=at_once)
    try:
        if wait is not None:
            wait.begin()
    except WaitInTask:
        try:
            return await wait_for(backend.looker.ended(calls, pauses), LOOK_EVERY)
        except TimeoutError:
            pass
        raise
    found = await backend.looker.ended(calls, pauses)
    _learn(backend, results, found)
    return found


def wait_for_all(
    waiting: deque[Any],
    before: dict[str, deque[Any]],
    ended: dict[str, Record],
    promised: Sequence[Any],
    *,
    timeout: float | None,
    longest: float,
    wait: Wait | None,
) -> None:
    """Wait until all of `waiting` have ended, and put their records into `ended`.

    `before` has the results that each comes after. No pause is longer than `longest` seconds.
    Raises `ResultTimeout`, `WaitInTask`, and what `refuse_vain` raises for those `promised`.
    """
    asked, backend = len(waiting) + len(ended), waiting[0].backend
    deadline = inf if timeout is None else time.monotonic() + timeout
    longest = min(longest, LOOK_EVERY)
    watcher = _watcher(backend, waiting, at_once=wait is not None)
    try:
        if not backend.wakes:
            watcher.wait(min(longest, deadline - time.monotonic()))
        while True:
            left, had_ended = deadline - time.monotonic(), False
            while had_ended := _advance(
                waiting, ended, backend, is_last=left <= 0, had_ended=had_ended
            ):
                if not waiting:
                    return
            if before and lost(waiting, before, ended, backend):
                continue
            for result in promised:
                refuse_vain(result)
            if left <= 0:
                raise ResultTimeout(unended(waiting[0].id, len(waiting), asked, timeout))
            if wait is not None:
                wait.begin()
            watcher.wait(min(left, longest))
    finally:
        watcher.close()
        if wait is not None:
            wait.end()


def _watcher(backend: Backend, waiting: deque[Any], *, at_once: bool) -> Watcher:
    """Return a waiter for changes; where the store wakes nobody it begins before the first look.

    Who waits within a task looks `at_once`: it may be told that it must not wait.
    """
    if backend.wakes:
        return backend.watch()
    front = [_waited(one) for one in _front(waiting, backend)]
    return Poller(backend.usual.pauses(front, at_once=at_once))


def _front(waiting: deque[Any], backend: Backend) -> list[Any]:
    """Return the first that are waited for, as many as one read takes."""
    return list(islice(waiting, backend.driver.limits.get))


def _waited(result: Any) -> Waited:
    return Waited(result.id, result.task)


def _advance(
    waiting: deque[Any],
    ended: dict[str, Record],
    backend: Backend,
    *,
    is_last: bool,
    had_ended: bool,
) -> bool:
    """Look at the first that are waited for; tell whether all of them had ended.

    While the last of them has not ended the others need no look, unless nobody looks again: all
    are waited for, and a store may bill each. Those behind need none before these have ended. If
    those before `had_ended` at the first look, these have probably, and are read in one request.
    """
    front = _front(waiting, backend)
    if not front:  # the last of them were lost
        return True
    last = front[-1]
    asked = front if is_last or had_ended else [last]
    found = read_all(backend, asked, consistent=is_last)
    if len(asked) < len(front):
        if not last.keep(found.get(last.id)).terminal:
            return False
        found |= read_all(backend, front[:-1], consistent=False)
    for _ in front:
        waiting.popleft()
    left: list[Any] = []
    for result in front:
        record = result.keep(found.get(result.id))
        if record.terminal:
            ended[result.id] = record
        else:
            left.append(result)
    waiting.extendleft(reversed(left))
    _learn(backend, front, ended)
    return not left


def _learn(backend: Backend, results: Sequence[Any], ended: Mapping[str, Record]) -> None:
    """Note how long the tasks took that have ended, for those who wait where nobody is woken."""
    if not backend.wakes:
        for result in results:
            if result.id in ended:
                backend.usual.learn(_waited(result), ended[result.id])


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
        records = read_all(backend, [*unknown.values()]) if unknown else {}
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
