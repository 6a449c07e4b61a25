"""The members of a group, which may come from a generator that is read only as needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from cloudq.errors import InvalidArguments

T = TypeVar("T")


class Members(Generic[T]):
    """A list whose values come from an iterator; with `lazy` that is read when they are needed."""

    def __init__(self, source: Iterator[T], *, lazy: bool) -> None:
        self._source: Iterator[T] | None = source if lazy else None
        self._is_spent = False
        self._read: list[T] = [] if lazy else list(source)

    @property
    def is_read(self) -> bool:
        """Tell whether the iterator has been read to its end."""
        return self._source is None

    def all(self) -> list[T]:
        """Return all values; the same list each time."""
        if self._source is not None:
            self._refuse_spent()
            source, self._source = self._source, None
            self._read = list(source)
        return self._read

    def stream(self) -> Iterator[T]:
        """Yield the values one by one; those of the iterator can be read only once."""
        if self._source is None:
            yield from self._read
            return
        self._refuse_spent()
        self._is_spent = True
        yield from self._source

    def peek(self) -> Sequence[T]:
        """Return the values, of an unread iterator only the first, which stays in it."""
        if self._source is None:
            return self._read
        self._refuse_spent()
        first = list(itertools.islice(self._source, 1))
        self._source = itertools.chain(first, self._source)
        return first

    def _refuse_spent(self) -> None:
        if self._is_spent:
            raise InvalidArguments(
                "the members of this group came from a generator, which has been read: "
                "make the group from a list to start it, or look at it, again"
            )
