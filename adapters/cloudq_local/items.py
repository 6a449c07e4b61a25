"""The rules of items that both embedded backends share: checks, changes, refusals, sizes."""

from __future__ import annotations

from collections.abc import Mapping

from cloudq.driver import Value
from cloudq.driver.conditional import Fields, Refusal, changed, holds, stored

__all__ = ["Fields", "Refusal", "changed", "holds", "size", "stored"]


def size(fields: Mapping[str, Value]) -> int:
    """Return about how many bytes the fields take."""
    return sum(len(name) + _size(value) for name, value in fields.items())


def _size(value: Value) -> int:
    if isinstance(value, str):
        # Only text that could be over any limit is worth counting exactly.
        return len(value) if len(value) < 1024 else len(value.encode(errors="surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, frozenset):
        return sum(map(len, value))
    return 8
