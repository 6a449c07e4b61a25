"""Compresses bodies, and expands them up to a limit."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from cloudq.errors import DecodeError
from cloudq.messages.optional import library

_ZSTD_WINDOW = 1 << 27  # bytes; what a frame may make its reader keep, as the zstd program has it


def compress(name: str, data: bytes) -> bytes:
    """Compress data by one of `COMPRESSIONS`.

    Raises `ConfigurationError` where a library is missing.
    """
    return _COMPRESS[name](data)


def expand(name: str, data: bytes, *, limit: int) -> bytes:
    """Restore the data that `compress` was given, up to `limit` bytes.

    Never holds more than `limit` bytes of output, whatever size the data names. Raises
    `DecodeError` for a larger output, for data that is cut short, and for data after its end.
    """
    if name not in _EXPAND:
        known = ", ".join(COMPRESSIONS)
        raise DecodeError(f"unknown compression {name!r}: this release reads {known}")
    return _EXPAND[name](data, limit)


def _zlib_expand(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        made = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise _malformed("zlib", error) from error
    return _whole("zlib", made, limit, ends=stream.eof and not stream.unused_data)


def _bz2_expand(data: bytes, limit: int) -> bytes:
    stream = bz2.BZ2Decompressor()
    try:
        made = stream.decompress(data, limit + 1)
    except (OSError, ValueError) as error:
        raise _malformed("bz2", error) from error
    return _whole("bz2", made, limit, ends=stream.eof and not stream.unused_data)


def _whole(name: str, made: bytes, limit: int, *, ends: bool) -> bytes:
    if len(made) > limit:
        raise _too_large(name, limit)
    if not ends:
        raise _malformed(name, "it ends too early or too late")
    return made


def _malformed(name: str, reason: object) -> DecodeError:
    return DecodeError(f"malformed {name}: {reason}")


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
    "zlib": _zlib_expand,
    "bz2": _bz2_expand,
    "zstd": _zstd_expand,
}
COMPRESSIONS = tuple(_COMPRESS)
