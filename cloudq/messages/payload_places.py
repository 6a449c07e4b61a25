"""The payload stores that values are fetched from and files put into, in this context."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from cloudq.errors import EncodeError

P = ParamSpec("P")
T = TypeVar("T")

Opens = Callable[[], Any]
"""Opens the `Payloads` of an app, which few processes need; None where it has none."""

READING: ContextVar[Opens | None] = ContextVar("payloads_read", default=None)
"""The store from which values are fetched as they are read; None where claims stay claims."""
WRITING: ContextVar[Opens | None] = ContextVar("payloads_written", default=None)
"""The store into which files are put as they are sent."""


class NotStored(EncodeError):
    """Raised for a file that is written where no store is known to put it into."""


def storing(opens: Opens, write: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that writes values; files among them are stored. Nothing is sent by it.

    Most calls have none, so the store is named only when the first is met.
    """
    try:
        return write(*args, **kwargs)
    except NotStored:
        pass  # and not in here: what is raised then has nothing to do with it
    with writing(opens):
        return write(*args, **kwargs)


@contextmanager
def writing(opens: Opens) -> Generator[None]:
    """Let files that are written in the block be stored."""
    token = WRITING.set(opens)
    try:
        yield
    finally:
        WRITING.reset(token)


@contextmanager
def inside_stored(opens: Opens) -> Generator[None]:
    """Read what is in a stored value: its files lie in the same store, and it has no claims."""
    token = READING.set(None)
    try:
        with writing(opens):
            yield
    finally:
        READING.reset(token)
