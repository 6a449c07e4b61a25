"""The parts of a blob's content, and the check of its key, as all drivers of blobs have them."""

from __future__ import annotations

from typing import BinaryIO

from cloudq.driver.blobs import BLOB_KEY


class NoBlob(ValueError):
    """Raised for what can be no blob: a key of another form, or less content than was said."""


def checked(key: str) -> str:
    """Return a blob's key. Raises `NoBlob` for what is none: it may lead anywhere."""
    if BLOB_KEY.fullmatch(key) is None:
        raise NoBlob(f"{key!r:.100} is no key of a blob")
    return key


def part_of(content: BinaryIO, start: int, size: int, most: int) -> bytes:
    """Return the part of the `size` bytes of a content that begins at `start`, of `most` bytes.

    The last part is shorter. Raises `NoBlob` where the content ends before.
    """
    content.seek(start)
    wanted = min(most, size - start)
    part = content.read(wanted) if wanted else b""
    while len(part) < wanted:  # a pipe or a raw file gives what it has
        more = content.read(wanted - len(part))
        if not more:
            raise NoBlob(f"the content has {start + len(part):,} bytes, not {size:,}")
        part += more
    return part
