"""Foreign message formats, such as Celery's, found by the entry points of `cloudq.formats`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any

from cloudq.driver.entry_points import EntryPoint
from cloudq.driver.immutable import immutable
from cloudq.driver.loader import installed
from cloudq.errors import ConfigurationError
from cloudq.messages.message import TaskMessage


@immutable
class MessageFormat:
    """Another program's messages: functions that read, write and recognize them.

    `read(body, queue, limit, accept)` gives the call in a body of at most `limit` bytes found in
    `queue`, or None for a body that is not of this format; `accept` are the serializers that the
    app reads. It raises `DecodeError` for a call that cannot be run here. `write(message)` gives
    the body of a message, and raises `EncodeError` for a message that the format cannot express.
    `fields(body)` gives what of a body that cannot be read tells whose call it is, as unchecked
    fields of a `TaskMessage`, or None.
    `title` is the other program's name in error messages.
    """

    name: str
    title: str
    read: Callable[[bytes, str, int, Collection[str]], TaskMessage | None]
    write: Callable[[TaskMessage], bytes]
    recognizes: Callable[[bytes], bool]
    fields: Callable[[bytes], Mapping[str, Any] | None] = lambda body: None


def find_format(name: str) -> MessageFormat | None:
    """The installed format of this name, loaded at its first use; None for an unknown name.

    Raises `ConfigurationError` for a format that cannot be imported.
    """
    return _load(name) if name in _installed() else None


def installed_formats() -> Iterator[MessageFormat]:
    """All installed formats. Raises as `find_format`."""
    for name in _installed():
        yield _load(name)


@cache
def _installed() -> dict[str, EntryPoint]:
    """The entry points by name; looking for them takes 10 ms or more."""
    return {entry.name: entry for entry in installed("format")}


@cache
def _load(name: str) -> MessageFormat:
    entry = _installed()[name]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the message format {name!r} cannot be loaded from {entry.value}: {error}"
        ) from error
