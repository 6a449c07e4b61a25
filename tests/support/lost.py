"""A driver that does what it is asked, and whose answer is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.support.faults import Outage


class Deaf:
    """A driver before another that loses the answers to some calls, after they had their effect.

    They are the calls with these `names` from the number `at` on, `times` in a row, counted over
    all that share `calls`. With `again` it makes the call once more, as an SDK does; else its
    caller is told. The `down` calls after them fail without an effect.
    """

    def __init__(
        self,
        inner: Any,
        calls: Iterator[int],
        at: int,
        names: frozenset[str],
        *,
        again: bool,
        times: int = 1,
        down: int = 0,
    ) -> None:
        self._inner = inner
        self._calls = calls
        self._lost = range(at, at + times)
        self._down = range(at + times, at + times + down)
        self._names = names
        self._again = again

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._names:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            number = next(self._calls)
            if number in self._down:
                raise Outage(f"{name} is not even heard")
            answer = value(*args, **kwargs)
            if number not in self._lost:
                return answer
            if self._again:
                return value(*args, **kwargs)
            raise Outage(f"the answer to {name} is lost")

        return call
