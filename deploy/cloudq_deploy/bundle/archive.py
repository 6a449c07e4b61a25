"""Writes reproducible zips: sorted entries without times, all with the same permissions."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from cloudq.errors import ConfigurationError

Contents = Mapping[str, bytes]
"""Files of a zip, by their paths in it."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
_MODE = 0o100644
_SHOWN = 8
# The folder in which Azure's worker looks for packages.
_AZURE_PACKAGES = ".python_packages/lib/site-packages/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most bytes that a cloud accepts unzipped; `hint` says what to do about a larger zip."""

    cloud: str
    unzipped: int
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A zip on the disk; sizes are in bytes.

    `digest` is the hash of its contents, so it does not depend on how they were compressed.
    `parts` are the sizes of its packages.
    """

    path: Path
    digest: str
    sha256: str
    zipped: int
    unzipped: int
    parts: Mapping[str, int]

    def largest(self) -> list[tuple[str, int]]:
        """The largest parts, largest first."""
        return sorted(self.parts.items(), key=itemgetter(1), reverse=True)[:_SHOWN]


def digest_of(contents: Contents) -> str:
    """Hash all names and contents."""
    whole = hashlib.sha256()
    for name, content in sorted(contents.items()):
        whole.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest()


def write(contents: Contents, path: Path, limit: Limit, level: int = 6) -> Package:
    """Write the zip, compressed so much (0 to 9).

    Raises `ConfigurationError` for one that is too large for the cloud.
    """
    parts = Counter[str]()
    for name, content in contents.items():
        parts[part_of(name)] += len(content)
    unzipped = sum(parts.values())
    if unzipped > limit.unzipped:
        shown = ", ".join(f"{name} {megabytes(size)}" for name, size in parts.most_common(_SHOWN))
        raise ConfigurationError(
            f"the zip has {megabytes(unzipped)} unzipped, and {limit.cloud} accepts at most "
            f"{megabytes(limit.unzipped)}. Its largest parts: {shown}. {limit.hint}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place when complete: builds may run at once, or be interrupted.
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".zip", delete=False) as file:
        try:
            _write(contents, file, level)
            file.close()
            Path(file.name).chmod(_MODE & 0o777)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return Package(
        path=path,
        digest=digest_of(contents),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        zipped=path.stat().st_size,
        unzipped=unzipped,
        parts=dict(parts.most_common()),
    )


def _write(contents: Contents, file: IO[bytes], level: int) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE << 16
            entry.create_system = 3  # Unix; otherwise it would depend on this machine
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=level)


def read(path: Path) -> Contents | None:
    """Read the contents of a zip; None where there is none, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None


def part_of(name: str) -> str:
    """Name the part of the zip that a file belongs to: a package, or botocore's data."""
    first, _, rest = name.removeprefix(_AZURE_PACKAGES).partition("/")
    if first == "botocore" and rest.startswith("data/"):
        return "botocore/data"
    if first.endswith((".dist-info", ".libs")) or not rest:
        return first.rpartition(".")[0].partition("-")[0] if rest else first
    return first


def megabytes(size: int) -> str:
    """Format a size in bytes as megabytes."""
    return f"{size / 1024 / 1024:.1f} MB"
