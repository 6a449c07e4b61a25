"""The protocol of a blob store: large payloads by key, written and read as streams."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import BinaryIO, Protocol, runtime_checkable

from cloudq.driver.immutable import immutable
from cloudq.driver.values import Code, Failure

BLOB_KEY = re.compile(r"[a-z]{1,16}/[A-Za-z0-9_-]{1,64}/[0-9a-f]{32}")
"""The form of every blob's key: its kind, its owner, and 128 random bits."""


class BlobGone(Exception):
    """Raised for a blob that is not there, or not there any more."""

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no blob {key}")
        self.key = key


@immutable
class Blob:
    """One stored blob: its size in bytes, and when it was written, in epoch seconds."""

    key: str
    size: int
    written: float


@immutable
class BlobPage:
    """Some blobs in the order of their keys; `next` continues, None = end."""

    blobs: Sequence[Blob]
    next: str | None = None


class Blobs(Protocol):
    """One place for blobs. Every method is safe to call from many threads.

    Keys are as `BLOB_KEY` says. `most_deleted` is the number of keys of one `delete` at most.
    """

    most_deleted: int

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        """Store the `size` bytes from the start of `content`: all of them, or nothing.

        `content` can be sought, and is read in parts of a few megabytes. It is an error, and
        nothing is stored, where it has fewer bytes.
        """
        ...

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        """Open a blob, and return its bytes from `start` on, in parts of a few megabytes at most.

        Close it to stop before its end. Raises `BlobGone` at once.
        """
        ...

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        """Delete blobs; one that is not there is no failure."""
        ...

    def list(self, *, after: str | None, limit: int) -> BlobPage:
        """Return up to `limit` blobs; `after` is the `next` of another page."""
        ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...


@runtime_checkable
class BlobAdmin(Protocol):
    """Operators' commands on the place itself; a driver of blobs may implement it too."""

    def create_place(self, *, expires: float) -> None:
        """Make the bucket (or what the service calls it), if it is not there.

        Its rule deletes what is older than `expires` seconds, rounded up to days; a rule of ours
        that is there is replaced, and no other is touched.
        """
        ...

    def check_place(self) -> None:
        """Raise the SDK's own error when the bucket is missing or out of reach."""
        ...
