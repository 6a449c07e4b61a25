"""A zip that is the same for the same files: sorted, without times, with one kind of rights."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from cloudq.errors import ConfigurationError

Contents = Mapping[str, bytes]
"""Paths inside the zip, and what is there."""

# "250 MB: the deployment package size (unzipped), including layers" (Lambda's quotas).
LIMIT = 250 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can name
_MODE = 0o100644
_SHOWN = 8
# Where Azure's worker looks for packages.
_AZURES = ".python_packages/lib/site-packages/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much a cloud takes unzipped, in bytes; `hint` is what else one could do."""

    cloud: str
    unzipped: int
    hint: str


LAMBDA = Limit(
    cloud="Lambda",
    unzipped=LIMIT,
    hint="Leave something out (exclude, services), put it in a layer, or use --package image "
    "(10 GB)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A zip on the disk. `digest` is of its contents, whoever compressed them; sizes in bytes."""

    path: Path
    digest: str
    sha256: str
    zipped: int
    unzipped: int
    parts: Mapping[str, int]

    def largest(self) -> list[tuple[str, int]]:
        """What makes it big, the largest first."""
        return sorted(self.parts.items(), key=lambda part: -part[1])[:_SHOWN]


def digest_of(contents: Contents) -> str:
    """One hash of all names and contents."""
    whole = hashlib.sha256()
    for name, content in sorted(contents.items()):
        whole.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest()


def write(contents: Contents, path: Path, limit: Limit = LAMBDA) -> Package:
    """Write the zip. Raises `ConfigurationError` for one that the cloud would not take."""
    parts = Counter[str]()
    for name, content in contents.items():
        parts[part_of(name)] += len(content)
    unzipped = sum(parts.values())
    if unzipped > limit.unzipped:
        shown = ", ".join(f"{name} {megabytes(size)}" for name, size in parts.most_common(_SHOWN))
        raise ConfigurationError(
            f"the function has {megabytes(unzipped)} unzipped, and {limit.cloud} takes "
            f"{megabytes(limit.unzipped)}: {shown}. {limit.hint}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: two builds may run at once, and either be interrupted.
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".zip", delete=False) as file:
        try:
            _write(contents, file)
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


def _write(contents: Contents, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE << 16
            entry.create_system = 3  # else it is that of the machine
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def read(path: Path) -> Contents | None:
    """What is in a zip that was written here; None where there is none, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None


def part_of(name: str) -> str:
    """The part of the zip that a file is counted to: a package, or botocore's descriptions."""
    first, _, rest = name.removeprefix(_AZURES).partition("/")
    if first == "botocore" and rest.startswith("data/"):
        return "botocore/data"
    if first.endswith((".dist-info", ".libs")) or not rest:
        return first.rpartition(".")[0].partition("-")[0] if rest else first
    return first


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1024 / 1024:.1f} MB"
