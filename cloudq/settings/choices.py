"""The values that some settings choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

Serializer = Literal["json", "msgpack", "yaml", "pickle"]
Compression = Literal["zlib", "bz2", "zstd"]
SERIALIZERS: tuple[str, ...] = get_args(Serializer)
COMPRESSIONS: tuple[str, ...] = get_args(Compression)


class Level(StrEnum):
    """The events of a task that are recorded."""

    NONE = "none"
    FAILED = "failed"  # what failed for good, and was rejected
    FINAL = "final"  # how tasks ended
    TRACKED = "tracked"  # also that they started, and were retried
