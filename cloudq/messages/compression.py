"""Compression of bodies, and its undoing up to a cap."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cloudq.errors import DecodeError
from cloudq.messages.optional import library

_ZSTD_WINDOW = 1 << 27  # bytes; what a frame may make its reader keep, as the zstd program has it


def compress(name: str, data: bytes) -> bytes:
    """The data in one of `COMPRESSIONS`. Raises `ConfigurationError` where a library is missing."""
    return _COMPRESS[name](data)


def expand(name: str, data: bytes, *, limit: int) -> bytes:
    """What `compress` was given, at most `limit` bytes of it.

    Never holds more than `limit` bytes of output, whatever the data claims to be. Raises
    `DecodeError` for more than that, for what is cut short, and for what has a tail.
    """
    if name not in _EXPAND:
        known = ", ".join(COMPRESSIONS)
        raise DecodeError(f"unknown compression {name!r}: this release reads {known}")
    return _EXPAND[name](data, limit)


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _streamed(name: str, stream: _Stream, data: bytes, limit: int) -> bytes:
    try:
        made = stream.decompress(data, limit + 1)
    except (zlib.error, OSError, ValueError) as error:
        raise DecodeError(f"malformed {name}: {error}") from error
    if len(made) > limit:
        raise _too_large(name, limit)
    if not stream.eof or stream.unused_data:
        raise DecodeError(f"malformed {name}: it ends too early or too late")
    return made


def _too_large(name: str, limit: int) -> DecodeError:
    return DecodeError(f"oversized: {name} that opens to more than the {limit:,} bytes accepted")


def _zstd_compress(data: bytes) -> bytes:
    return library("zstandard", extra="zstd").ZstdCompressor().compress(data)


def _zstd_expand(data: bytes, limit: int) -> bytes:
    zstandard: Any = library("zstandard", extra="zstd")
    try:
        # The library trusts a size that the frame names, and allocates it.
        size: int = zstandard.frame_content_size(data)
        if size > limit:
            raise _too_large("zstd", limit)
        opener = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return opener.decompress(data, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(f"malformed zstd, or more than {limit:,} bytes of it: {error}") from error


_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "zstd": _zstd_compress,
}
_EXPAND: Mapping[str, Callable[[bytes, int], bytes]] = {
    "zlib": lambda data, limit: _streamed("zlib", zlib.decompressobj(), data, limit),
    "bz2": lambda data, limit: _streamed("bz2", bz2.BZ2Decompressor(), data, limit),
    "zstd": _zstd_expand,
}
COMPRESSIONS = tuple(_COMPRESS)
