"""Makes several calls at a time, where each is a round trip to a service."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from cloudq.driver.forks import renew_after_fork

_AT_ONCE = 8
# Threads of a process for all that asks at the same time.
_THREADS = 64

A = TypeVar("A")
T = TypeVar("T")


class _Helpers:
    """Threads that are kept, since to start one costs as much as to write a request."""

    def __init__(self) -> None:
        self._renew()
        renew_after_fork(self, _Helpers._renew)

    def _renew(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="side-by-side")

    def ask(self, work: Callable[[], None]) -> None:
        """Have one more thread do this too, unless all are busy until it is done."""
        with suppress(RuntimeError):  # the interpreter ends, or cannot start a thread
            self._pool.submit(copy_context().run, work)


_helpers = _Helpers()


def side_by_side(call: Callable[[A], T], arguments: Sequence[A], *, billed: bool) -> list[T]:
    """Call with each of these, and return the values; raises the first error, after all calls.

    This thread makes calls too, so that it needs no other. Where requests are not `billed` all are
    made in turn: threads would cost more than they save.
    """
    if not billed or len(arguments) < 2:
        return [call(argument) for argument in arguments]
    made: list[Future[T]] = [Future() for _ in arguments]
    left = deque(zip(arguments, made, strict=True))

    def work() -> None:
        with suppress(IndexError):
            while True:
                _make(call, *left.popleft())

    for _ in range(min(len(arguments), _AT_ONCE) - 1):
        _helpers.ask(work)
    work()
    for each in made:
        each.exception()  # waits for it
    return [each.result() for each in made]


def _make(call: Callable[[A], T], argument: A, made: Future[T]) -> None:
    try:
        made.set_result(call(argument))
    except BaseException as error:
        made.set_exception(error)
