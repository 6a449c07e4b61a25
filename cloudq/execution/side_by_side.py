"""Makes several calls at a time, where each is a round trip to a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

_AT_ONCE = 8

A = TypeVar("A")
T = TypeVar("T")


def side_by_side(call: Callable[[A], T], arguments: Sequence[A], *, billed: bool) -> list[T]:
    """Call with each of these, and return the values; raises the first error, after all calls.

    Where requests are not `billed` the calls are made in turn: threads would cost more than they
    save.
    """
    if not billed or len(arguments) < 2:
        return [call(argument) for argument in arguments]
    threads = min(len(arguments), _AT_ONCE)
    with ThreadPoolExecutor(threads, thread_name_prefix="side-by-side") as pool:
        made = [pool.submit(copy_context().run, call, argument) for argument in arguments]
    return [future.result() for future in made]
