"""Reads items of the store, which an older, a newer or another program may have written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson

from cloudq.driver import Code, Item, Key
from cloudq.driver.log import Log
from cloudq.errors import BackendError, DecodeError

T = TypeVar("T")

log = Log("cloudq.backend")


class OddItem(BackendError):
    """Raised for an item that is not what its key says; names the key."""

    def __init__(self, key: Key, why: str) -> None:
        super().__init__(
            f"the item {'/'.join(key)!r} in the store cannot be read ({why}): if another program "
            "wrote it, delete it or give that program a store of its own",
            code=Code.INVALID,
        )


@contextmanager
def reading(key: Key) -> Generator[None]:
    """Turn what goes wrong while an item is read into an `OddItem`."""
    try:
        yield
    except KeyError as error:
        raise OddItem(key, f"it has no field {error}") from error
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError, DecodeError) as error:
        raise OddItem(key, f"{type(error).__name__}: {error}"[:200]) from error


def typed(item: Item, kinds: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Return those of the named fields that an item has. Raises `OddItem` for another type."""
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name in item.fields:
            value: Any = item.fields[name]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise OddItem(item.key, f"its field {name!r} is of type {type(value).__name__}")
            found[name] = value
    return found


def is_list(value: object) -> bool:
    """Tell whether a value is a list."""
    return isinstance(value, list)


def json_in(item: Item, name: str) -> Any:
    """Read the JSON text in a field. Raises `OddItem`."""
    with reading(item.key):
        return orjson.loads(typed(item, {name: str})[name])


def readable(items: Iterable[Item], read: Callable[[Item], T]) -> list[T]:
    """Read items for a list; one that cannot be read is left out, with a warning."""
    found: list[T] = []
    for item in items:
        try:
            found.append(read(item))
        except OddItem as odd:
            log.warning("left out: %s", odd)
    return found
