"""Blobs as files of a folder: `file:///var/lib/shop/payloads`, or `file://./payloads` here.

A path after three slashes is absolute, as in every `file:` URL (RFC 8089); that of `sqlite:///`,
which follows SQLAlchemy, is not. Files can be read by this user alone.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from cloudq.driver import Address, Code, Failure
from cloudq.driver.blob_content import checked, part_of
from cloudq.driver.blobs import BLOB_KEY, Blob, BlobGone, BlobPage
from cloudq.errors import ConfigurationError
from cloudq_local.options import check_options

_PART = 1 << 20
# Where a blob is while it is written, as one of this key: what a dead process left is swept too.
_PARTS = "parts/unwritten"
_TRIES = 100
# The hosts of a URL, and the folder in which their paths begin.
_HOSTS = {"": "/", "localhost": "/", ".": ""}

_CODES = {
    errno.ENOSPC: Code.THROTTLED,  # somebody may make room
    errno.EDQUOT: Code.THROTTLED,
    errno.EACCES: Code.DENIED,
    errno.EPERM: Code.DENIED,
    errno.EROFS: Code.DENIED,
    errno.EMFILE: Code.THROTTLED,
    errno.ENFILE: Code.THROTTLED,
    errno.EFBIG: Code.TOO_LARGE,
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.NOT_FOUND,
    errno.EEXIST: Code.NOT_FOUND,
    errno.ELOOP: Code.NOT_FOUND,
    errno.ENAMETOOLONG: Code.NOT_FOUND,
}

_ADVICE = {
    errno.ENOSPC: "its disk is full: free some space, then try again",
    errno.EDQUOT: "this user's share of its disk is full: free some space, then try again",
    errno.EACCES: "this user may not write to the folder, or not look into it",
    errno.EPERM: "this user may not write to the folder, or not look into it",
    errno.EROFS: "its disk can only be read: name a folder on another",
    errno.EMFILE: "this process has too many files open",
    errno.ENFILE: "this machine has too many files open",
    errno.EFBIG: "the file system takes no file as large as that",
    errno.ENOTDIR: "a part of its path is no folder: name another",
    errno.EEXIST: "something else has the folder's name: name another",
    errno.ELOOP: "a part of its path is a link to nowhere, or to itself",
    errno.ENAMETOOLONG: "its path is too long for this file system",
    errno.EIO: "its disk cannot be read or written: is it ill?",
}


def open_blobs(address: Address) -> BlobFiles:
    """The driver of a `file://` URL. Raises `ConfigurationError`."""
    check_options(address, ())
    if address.host not in _HOSTS:
        raise ConfigurationError(
            f"{address.url} names the host {address.host!r}: write file:///var/lib/payloads for "
            "an absolute path, file://./payloads for a folder here"
        )
    path = address.path.strip("/")
    if not path:
        raise ConfigurationError("file:// names no folder: write file:///var/lib/payloads, say")
    if "\0" in address.path:
        raise ConfigurationError(f"{address.path!r} is no path: it has a NUL in it")
    return BlobFiles(Path(os.path.abspath(_HOSTS[address.host] + path)))


class BlobFiles:
    """A `Blobs` and `BlobAdmin` of files in one folder, which is made when it is first needed."""

    most_deleted = 1000

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        path = self._path(key)
        part = self._folder / _PARTS / path.name
        self._make(part.parent)
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(opened, "wb", buffering=0) as file:
                _copy(content, file, size)
            self._move(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        try:
            opened = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise BlobGone(key) from error
        file = os.fdopen(opened, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            file.close()
            raise BlobGone(key)
        file.seek(start)
        return _parts(file)

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        failed: list[Failure] = []
        for index, key in enumerate(keys):
            path = self._path(key)
            try:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # its owner has others, or none was ever there
                    path.parent.rmdir()
            except OSError as error:
                reason = error.strerror or str(error)
                failed.append(Failure(index=index, code=self.error_code(error), reason=reason))
        return failed

    def list(self, *, after: str | None, limit: int) -> BlobPage:
        _nearest(self._folder)  # an empty list of what is no folder would hide the mistake
        found: list[Blob] = []
        for key, status in self._found(after or ""):
            if len(found) == limit:
                return BlobPage(blobs=found, next=found[-1].key)
            found.append(Blob(key=key, size=status.st_size, written=status.st_mtime))
        return BlobPage(blobs=found)

    def _found(self, after: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the keys behind one, in order."""
        kind_after, _, rest = after.partition("/")
        for kind in _names(self._folder, kind_after, itself=True):
            owner_after = rest.partition("/")[0] if kind == kind_after else ""
            for owner in _names(self._folder / kind, owner_after, itself=True):
                folder = self._folder / kind / owner
                is_first = kind == kind_after and owner == owner_after
                for name in _names(folder, after.rpartition("/")[2] if is_first else ""):
                    key = f"{kind}/{owner}/{name}"
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        status = os.lstat(folder / name)
                        if BLOB_KEY.fullmatch(key) and stat.S_ISREG(status.st_mode):
                            yield key, status

    def create_place(self, *, expires: float) -> None:
        """Make the folder. Files have no rule that deletes them: `cloudq sweep` does."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check_place(self) -> None:
        if os.access(_nearest(self._folder), os.R_OK | os.W_OK | os.X_OK):
            return
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._folder))

    def error_code(self, error: Exception) -> Code:
        if isinstance(error, OSError) and error.errno is not None:
            return _CODES.get(error.errno, Code.UNREACHABLE)
        return Code.INVALID if isinstance(error, ValueError) else Code.UNKNOWN

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error of the file system."""
        return _ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _move(self, part: Path, path: Path) -> None:
        """Give a written file its name. Its folder is deleted by others whenever it is empty."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._make(path.parent)
                os.rename(part, path)
                return
            except (FileNotFoundError, FileExistsError):
                if not tries_left:
                    raise

    def _make(self, folder: Path) -> None:
        """Make a folder of blobs, and those around it, which only this user can look into."""
        for each in (self._folder, folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / checked(key)


def _copy(content: BinaryIO, file: BinaryIO, size: int) -> None:
    for start in range(0, size, _PART):
        view = memoryview(part_of(content, start, size, _PART))
        while view:
            view = view[file.write(view) :]


def _parts(file: BinaryIO) -> Generator[bytes]:
    with file:
        while part := file.read(_PART):
            yield part


def _names(folder: Path, after: str, *, itself: bool = False) -> Sequence[str]:
    """Return the names in a folder behind one, in order; none where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    start = bisect_right(names, after)
    return names[start - 1 :] if itself and start and names[start - 1] == after else names[start:]


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one around it that exists. Raises `NotADirectoryError`."""
    found = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    return found
