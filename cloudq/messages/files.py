"""Files as arguments and results: by reference, and streamed both ways."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from cloudq.driver.forks import imported
from cloudq.errors import DecodeError, EncodeError, InvalidArguments
from cloudq.messages.json_text import is_object
from cloudq.messages.payload_places import READING, WRITING, NotStored, Opens

_PART = 1 << 20
_LONGEST_NAME = 255  # characters, of a file's name and of a content type


class File:
    """A file that travels by reference: as an argument, as a result, and in lists, dicts or models.

    Make one with `from_path` or `from_bytes`, and give it to a call. It is stored when the call is
    sent, in the setting `payload_store`, and stays there until `delete` is called or
    `payload_expires` is over: other calls may have it too. Who receives it reads it with `open`,
    `read` or `save`.
    """

    def __init__(
        self, *, name: str, size: int, content_type: str | None = None, local: Path | bytes
    ) -> None:
        self.name = _checked(name, "a file's name")
        if name in (".", "..") or "/" in name or "\\" in name:
            raise InvalidArguments(f"a file's name has no folder in it: {name!r}")
        self.content_type = None if content_type is None else _checked(content_type, "its type")
        self.size = size
        self.sha256: str | None = None
        self._sealed = False
        self.key: str | None = None
        self._local: Path | bytes | None = local
        self._opens: Opens | None = None

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        content_type: str | None = None,
    ) -> Self:
        """Refer to a file here; its content type is guessed from its name unless it is given.

        It must stay as it is until the call is sent. Raises `OSError` where it cannot be read.
        """
        local = Path(path).absolute()
        with local.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
        given = local.name if name is None else name
        kind = content_type or _guessed(given)
        return cls(name=given, size=size, content_type=kind, local=local)

    @classmethod
    def from_bytes(cls, data: bytes, name: str, *, content_type: str | None = None) -> Self:
        """Make a file of data."""
        kind = content_type or _guessed(name)
        return cls(name=name, size=len(data), content_type=kind, local=bytes(data))

    def open(self) -> BinaryIO:
        """Open it for reading, from its start: a binary stream, which reads as it goes.

        What was stored is checked at its end. Raises `PayloadGone`, `PayloadError`, `DecodeError`.
        """
        if isinstance(self._local, bytes):
            return io.BytesIO(self._local)
        if self._local is not None:
            return self._local.open("rb")
        return io.BufferedReader(_Stream(self._parts()), _PART)

    def read(self) -> bytes:
        """Return all of it. Raises as `open`."""
        if isinstance(self._local, bytes):
            return self._local
        buffer = io.BytesIO()
        with self.open() as file:
            while part := file.read(_PART):
                buffer.write(part)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a path, whole or not at all, and return that. Raises as `open`, `OSError`."""
        made = Path(path)
        part = made.with_name(f"{made.name}.{os.getpid()}.part")
        try:
            with self.open() as source, part.open("wb") as target:
                while data := source.read(_PART):
                    target.write(data)
            part.replace(made)
        finally:
            part.unlink(missing_ok=True)
        return made

    def delete(self) -> None:
        """Delete it from the payload store, for all who refer to it; one here stays."""
        if self.key is not None:
            self._store().delete([self.key])

    def _parts(self) -> Generator[bytes]:
        assert self.key is not None  # what is not here is stored
        assert self.sha256 is not None
        return self._store().parts(self.key, self.size, self.sha256, sealed=self._sealed)

    def _store(self) -> Any:
        payloads = None if self._opens is None else self._opens()
        if payloads is None:
            raise DecodeError(
                f"{self.name} lies in a payload store, and this app has none: set payload_store to "
                "that of the sender"
            )
        return payloads

    def __repr__(self) -> str:
        kind = f", {self.content_type}" if self.content_type else ""
        return f"<File {self.name!r}, {self.size:,} bytes{kind}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        if self.key is None or other.key is None:
            return self is other
        return self.key == other.key

    def __hash__(self) -> int:
        return id(self) if self.key is None else hash(self.key)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a signature with it is copied as it is started

    def __reduce__(self) -> tuple[Any, ...]:
        return read_file, (self.__wire__()["$file"],)

    # ---- as a wire value

    def __wire__(self) -> dict[str, Any]:
        """Return its reference; store it first if it is not. Raises `EncodeError` and as `open`."""
        if self.key is None:
            self._put()
        said: dict[str, Any] = {"key": self.key, "size": self.size, "sha256": self.sha256}
        said["name"] = self.name
        if self.content_type is not None:
            said["type"] = self.content_type
        if self._sealed:
            said["sealed"] = True
        return {"$file": said}

    def _put(self) -> None:
        opens = WRITING.get()
        if opens is None:
            raise NotStored(f"{self.name} is not stored yet: it is when a call with it is sent")
        payloads = opens()
        if payloads is None:
            raise EncodeError(
                f"{self.name} cannot be sent: files go to the payload_store, and this app has "
                "none: set it, say to s3://bucket/prefix"
            )
        payloads.check_size(self.size, f"the file {self.name}", EncodeError)
        key = payloads.new_key(imported("cloudq.messages.payloads").FILES)
        try:
            with self.open() as content:
                hashed = _Hashed(content)
                payloads.store(key, cast("BinaryIO", hashed), self.size)
                self.sha256 = hashed.hexdigest(self.size)
        except OSError as error:
            raise EncodeError(f"{self.name} cannot be read: {error.strerror}") from error
        self.key, self._opens, self._sealed = key, opens, payloads.seals

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


def read_file(content: Any) -> File:
    """Read the content of a `$file` tag. Raises `ValueError`."""
    place: dict[str, Any] = imported("cloudq.messages.payloads").place_in(
        content if is_object(content) else {}
    )
    name, kind = content.get("name"), content.get("type")
    if not isinstance(name, str) or not isinstance(kind, str | None):
        raise ValueError("it has no name")
    made = File(name=name, size=place["size"], content_type=kind, local=b"")
    made.key, made.sha256 = place["key"], place["sha256"]
    made._sealed = place["sealed"]  # pyright: ignore[reportPrivateUsage]
    made._local, made._opens = None, READING.get() or WRITING.get()  # pyright: ignore[reportPrivateUsage]
    return made


class _Hashed(io.RawIOBase):
    """Content that is hashed as it is read for the first time, and may be read again."""

    def __init__(self, content: BinaryIO) -> None:
        super().__init__()
        self._content = content
        self._hash, self._hashed = hashlib.sha256(), 0

    def read(self, size: int = -1, /) -> bytes:
        start = self._content.tell()
        part = self._content.read(size)
        new = start + len(part) - self._hashed
        if 0 < new <= len(part):
            self._hash.update(part[-new:])
            self._hashed += new
        return part

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def hexdigest(self, size: int) -> str:
        """Return the hash of the first `size` bytes; what nobody has read yet is read now."""
        self.seek(self._hashed)
        while self._hashed < size and self.read(min(_PART, size - self._hashed)):
            pass
        return self._hash.hexdigest()


class _Stream(io.RawIOBase):
    """Parts as a stream."""

    def __init__(self, parts: Generator[bytes]) -> None:
        super().__init__()
        self._parts = parts
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = memoryview(part)
        view = memoryview(buffer).cast("B")
        length = min(len(view), len(self._left))
        view[:length] = self._left[:length]
        self._left = self._left[length:]
        return length

    def close(self) -> None:
        self._parts.close()
        super().close()


def _checked(text: str, what: str) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArguments(
            f"{what} is a printable text of 1 to {_LONGEST_NAME} characters: {text!r:.99}"
        )
    return text


def _guessed(name: str) -> str | None:
    import mimetypes

    return mimetypes.guess_type(name)[0] if isinstance(name, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
