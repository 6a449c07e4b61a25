"""A small disk that tests can fill: a file system of its own, in memory."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LARGE = 1 << 16


class Disk:
    """A file system of a few MB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def take(self, size: int) -> None:
        """Take so many bytes, which `free` gives back."""
        self._ballast.write_bytes(bytes(size))

    def fill(self) -> None:
        """Leave no byte of it free."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (_LARGE, 4096, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Take away what fills it."""
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Generator[Disk]:
    """Mount a disk there for a while; skips the test where that is refused."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"a disk of {megabytes} MB cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
