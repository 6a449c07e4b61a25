"""The steps of a chain; chains that `|` makes of one another share them, until one is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

COLLECT = "cloudq.collect"
"""The task that returns the values of a join as one list, for a group that is itself a member."""

NESTED = 20
"""The most chords in one another that groups after groups make; then a task collects the values."""


class Steps(Generic[T]):
    """Steps in their simplest form (`joined` made them), or a list that its owner may change.

    `a | b | c` makes a chain at each `|`, so a copy each time would cost the square of the length.
    Here all share one list, which only grows: each has its first `_count` steps, and a last one.
    """

    def __init__(self, own: list[T]) -> None:
        self._own: list[T] | None = own
        self._shared: list[T] = []
        self._count = 0
        self._last: tuple[T, ...] = ()

    @classmethod
    def sharing(cls, shared: list[T], count: int, last: T) -> Self:
        made = cls([])
        made._own, made._shared, made._count, made._last = None, shared, count, (last,)
        return made

    @property
    def is_simple(self) -> bool:
        """Tell whether nobody can have changed the steps since they were joined."""
        return self._own is None

    def all(self) -> list[T]:
        """Return the steps; the same list each time, and no other's."""
        if self._own is None:
            self._own = self.copied()
        return self._own

    def copied(self) -> list[T]:
        """Return a copy of the steps."""
        if self._own is not None:
            return self._own.copy()
        return [*self._shared[: self._count], *self._last]

    @property
    def last(self) -> Sequence[T]:
        """The last step alone, or nothing where there is none."""
        return self._last if self._own is None else self._own[-1:]

    @property
    def is_single(self) -> bool:
        """Tell whether simple steps are one step."""
        return self._count == 0

    @property
    def first(self) -> Sequence[T]:
        """The first step alone, or nothing where there is none."""
        if self._own is not None:
            return self._own[:1]
        return self._shared[:1] if self._count else self._last

    def extended(self, other: Steps[T]) -> Steps[T]:
        """Return these steps with all but the first of the others behind; only for simple ones."""
        if other._count > self._count:
            shared = [*self.copied(), *other._shared[1 : other._count]]
            return Steps[T].sharing(shared, len(shared), other._last[0])
        made = self
        for step in other.copied()[1:]:
            made = made.ended([made._last[0], step])
        return made

    def ended(self, end: Sequence[T]) -> Steps[T]:
        """Return these steps with `end` in place of the last; only for simple ones."""
        *before, last = end
        shared, count = self._shared, self._count
        for step in before:
            if len(shared) == count:
                shared.append(step)
            if shared[count] is not step:  # another chain has gone on in its own way
                shared = [*shared[:count], step]
            count += 1
        return Steps[T].sharing(shared, count, last)


def steps_of(
    parts: Iterable[T | Steps[T]], followed: Callable[[T, T], Sequence[T]]
) -> Steps[T] | None:
    """Join single steps and simple ones; `followed` makes of two steps one or two."""
    made: Steps[T] | None = None
    for part in parts:
        given: Any = part
        steps: Steps[T] = given if isinstance(part, Steps) else Steps[T].sharing([], 0, given)
        if made is not None:
            made = made.ended(followed(made.last[0], steps.first[0])).extended(steps)
        else:
            made = steps.ended(steps.last)
    return made
