"""Encrypts payloads as they are stored, and opens them as they are read: AES-256-GCM in parts.

A sealed payload begins with a line of JSON, `{"v":4,"app":..,"with":..,"wrapped":..}`: the app,
the key and the data key. Parts of a megabyte follow, each with a nonce before and a tag behind it.
Every part is bound to app and key of the payload, to its place in it, and to being the last or
not, so that none is moved, left out or cut off.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from cloudq.errors import DecodeError
from cloudq.messages.json_text import is_object, json_text
from cloudq.messages.optional import invalid_tag

if TYPE_CHECKING:
    from cloudq.messages.encryption import Encryption

_PART = 1 << 20
_NONCE, _TAG = 12, 16
_WHOLE = _NONCE + _PART + _TAG
_LONGEST_HEADER = 16_384


class Sealing(io.RawIOBase):
    """The sealed form of content, made as it is read; `length` is its size.

    What is read again is the same, or an error: no nonce is used for two texts.
    """

    def __init__(
        self, encryption: Encryption, app: str, key: str, content: BinaryIO, size: int
    ) -> None:
        super().__init__()
        self._content, self._size = content, size
        self._app, self._key = app, key
        header, self._cipher = encryption.payload_key(app)
        self._header = json_text(header) + b"\n"
        parts = max(1, -(-size // _PART))
        self.length = len(self._header) + size + parts * (_NONCE + _TAG)
        self._sealed: list[tuple[bytes, bytes]] = []  # the nonce and the hash of each part
        self._restart()

    def _restart(self) -> None:
        self._content.seek(0)
        self._made = bytearray(self._header)
        self._index, self._left, self._ended = 0, self._size, False
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        wanted = self.length if size is None or size < 0 else size  # pyright: ignore[reportUnnecessaryComparison]
        while len(self._made) < wanted and not self._ended:
            self._seal_next()
        part = bytes(self._made[:wanted])
        del self._made[:wanted]
        self._at += len(part)
        return part

    def _seal_next(self) -> None:
        wanted = min(_PART, self._left)
        data = self._content.read(wanted) if wanted else b""
        if len(data) < wanted:  # whoever reads this tells that it is too short
            self._ended = True
            return
        self._left -= len(data)
        self._ended = not self._left
        nonce = self._nonce(data)
        bound = _bound(self._app, self._key, self._index, last=self._ended)
        self._made += nonce + self._cipher.encrypt(nonce, data, bound)
        self._index += 1

    def _nonce(self, data: bytes) -> bytes:
        digest = hashlib.sha256(data).digest()
        if self._index == len(self._sealed):
            self._sealed.append((os.urandom(_NONCE), digest))
        nonce, first = self._sealed[self._index]
        if first != digest:
            raise ValueError("the content has changed while it was stored")
        return nonce

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence != 0:
            raise io.UnsupportedOperation("it is sought from its start only")
        if offset != self._at:
            self._restart()
            while self._at < offset and self.read(min(_PART, offset - self._at)):
                pass
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def opened(encryption: Encryption | None, key: str, raw: Iterable[bytes]) -> Generator[bytes]:
    """Open a sealed payload as it is read. Raises `DecodeError`, `KeyServiceError`."""
    read = bytearray()
    cipher: Any = None
    app, index = "", 0
    for part in raw:
        read += part
        if cipher is None:
            end = read.find(b"\n")
            if end < 0:
                if len(read) > _LONGEST_HEADER:
                    break
                continue
            app, cipher = _cipher(encryption, key, bytes(read[:end]))
            del read[: end + 1]
        while len(read) > _WHOLE:
            yield _opened(cipher, bytes(read[:_WHOLE]), app, key, index, last=False)
            del read[:_WHOLE]
            index += 1
    if cipher is None or len(read) < _NONCE + _TAG:
        raise DecodeError(f"bad seal of {key}: cut short, or not sealed")
    yield _opened(cipher, bytes(read), app, key, index, last=True)


def _cipher(encryption: Encryption | None, key: str, line: bytes) -> tuple[str, Any]:
    try:
        header: object = orjson.loads(line)
    except ValueError:
        header = None
    if not is_object(header) or header.get("v") != 4:
        raise DecodeError(f"bad seal of {key}: it has no header that this release knows")
    if encryption is None:
        raise DecodeError(f"{key} is encrypted, and this app has no encryption_keys")
    return encryption.open_payload_key(header)


def _opened(cipher: Any, sealed: bytes, app: str, key: str, index: int, *, last: bool) -> bytes:
    try:
        bound = _bound(app, key, index, last=last)
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
    except invalid_tag():
        raise DecodeError(f"bad seal of {key}: changed, or cut short") from None


def _bound(app: str, key: str, index: int, *, last: bool) -> bytes:
    return f"cloudq payload\n{app}\n{key}\n{index}\n{int(last)}".encode()
