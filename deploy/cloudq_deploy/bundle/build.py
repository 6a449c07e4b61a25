"""Builds the zip that a project's functions run: `cloudq deploy build`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from cloudq.errors import DISTRIBUTION, ConfigurationError
from cloudq_deploy.bundle import archive, sources, wheels
from cloudq_deploy.bundle.lock import Pins, Platform, locked

# Records of the installation on this machine: they have its paths in them.
_RECORDS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
# Services that boto3 itself needs, whatever the program uses.
_ALWAYS = frozenset({"sts", "sso", "sso-oidc", "signin"})
# A file that all services share has three parts in its path: botocore/data/endpoints.json.
_SHARED = 3

_COMPILE = """
import sys
from pathlib import Path
from py_compile import PycInvalidationMode, compile
root = Path(sys.argv[1])
for path in sorted(root.rglob("*.py")):
    compile(path, dfile=sys.argv[2] + path.relative_to(root).as_posix(), quiet=2,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The options that decide the contents of a zip.

    `python` is a version such as 3.13. `include` and `exclude` are globs of the project's files,
    `services` the services of botocore to pack (none named: all), `requirements` the lock file.
    """

    python: str
    architecture: str = "x86_64"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    services: Sequence[str] = ()
    requirements: str | None = None


def filled(template: str, entry: str) -> bytes:
    """Fill in the template of a module that imports the app at `entry` (`module:attribute`)."""
    module, _, attribute = entry.partition(":")
    return template.format(entry=entry, module=module, attribute=attribute).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The contents of a cloud's zip beside the project's files, and their places.

    cloudq's `extra` names the dependencies to pack, as do those of `more`, and `adapter` is the one
    adapter that is packed. `own` writes the files that only the zip has, by their names, for an
    app's entry. Dependencies lie below `prefix` in the zip. `home` is the folder in which the cloud
    unpacks it.
    """

    extra: str
    adapter: str
    own: Callable[[str], Mapping[str, bytes]]
    prefix: str = ""
    home: str
    limit: archive.Limit
    more: Sequence[str] = ()

    @property
    def needed(self) -> str:
        """Return the requirement of cloudq with the extras."""
        return f"{DISTRIBUTION}[{','.join((self.extra, *self.more))}]"


def build(
    folder: Path,
    entry: str,
    selection: Selection,
    path: Path,
    layout: Layout,
    say: Callable[[str], None],
) -> archive.Package:
    """Write the zip of the project in `folder` to `path`; the app is at `entry`.

    `say` prints remarks. Raises `ConfigurationError`, without a zip, for what cannot be packed.
    """
    platform = Platform(python=selection.python, architecture=selection.architecture)
    own = sources.project_files(folder, include=selection.include, exclude=selection.exclude)
    check_entry(entry, own)
    written = layout.own(entry)
    taken = sorted(own.keys() & written.keys())
    if taken:
        raise ConfigurationError(
            f"the project's {taken[0]} has the name of a file that the deployment writes: rename "
            "it, or add it to exclude"
        )
    pins = locked(folder, platform, selection.requirements, layout.needed)
    needed = dependencies(pins, platform, selection, layout, folder / "build")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != selection.python:
        say(
            f"the zip has no bytecode, so cold starts are slower: this is Python {here}, and the "
            f"functions run {selection.python}"
        )
    with TemporaryDirectory(prefix="cloudq-") as room:
        stage = Path(room)
        for name, content in cloudq_files(layout.adapter):
            put(stage / layout.prefix / name, content)
        _lay(stage, own, written, needed)
        contents = {**needed, **_finished(stage, selection, layout)}
        return archive.write(contents, path, layout.limit)


def check_entry(entry: str, own: sources.Files) -> None:
    """Raise `ConfigurationError` if the app's module is not among the packed files."""
    module = entry.partition(":")[0].replace(".", "/")
    if not any(name in own for name in (f"{module}.py", f"{module}/__init__.py")):
        raise ConfigurationError(
            f"the module of the app {entry} is not among the project's files: run this in the "
            "project's folder, or change include and exclude"
        )


def _lay(
    stage: Path, own: sources.Files, written: Mapping[str, bytes], needed: archive.Contents
) -> None:
    for name, file in own.items():
        if name in needed or (stage / name).exists():
            raise ConfigurationError(
                f"the project's {name} has the name of a file of an installed package: rename it"
            )
        put(stage / name, file.read_bytes())
    for name, content in written.items():
        put(stage / name, content)


def dependencies(
    pins: Pins, platform: Platform, selection: Selection, layout: Layout, kept: Path
) -> archive.Contents:
    """Install the pinned wheels and return their files.

    They are cached in the folder `kept` for the next build. Raises `ConfigurationError` for a
    package without a wheel for the platform.
    """
    # The cache's key. An exact version always has the same files.
    made_of = (
        sorted(pins.items()),
        platform,
        sorted(selection.services),
        sys.version,
        layout.prefix,
        layout.home,
    )
    path = kept / f"wheels-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.zip"
    if (found := archive.read(path)) is not None:
        return found
    with TemporaryDirectory(prefix="cloudq-") as room:
        stage = Path(room) / "stage"
        packages = stage / layout.prefix
        packages.mkdir(parents=True)
        wheels.install(pins, platform, packages)
        _slim(packages, selection)
        contents = _finished(stage, selection, layout)
    for old in kept.glob("wheels-*.zip"):
        old.unlink(missing_ok=True)
    archive.write(contents, path, layout.limit, level=1)  # stays here: time is worth more
    return contents


def _finished(stage: Path, selection: Selection, layout: Layout) -> archive.Contents:
    """Read the staged files, with bytecode if this Python is the one that the functions run."""
    if selection.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        _compile(stage, layout.home)
    return {
        file.relative_to(stage).as_posix(): file.read_bytes()
        for file in stage.rglob("*")
        if file.is_file()
    }


def put(path: Path, content: bytes) -> None:
    """Write a file; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def cloudq_files(adapter: str) -> Iterator[tuple[str, bytes]]:
    """The files of the installed cloudq: its core, an adapter, and its entry points."""
    for package in ("cloudq", adapter):
        root = Path(str(import_module(package).__file__)).parent
        for file in root.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package}/{file.relative_to(root).as_posix()}", file.read_bytes()
    found = distribution(DISTRIBUTION)
    folder = f"{DISTRIBUTION.replace('-', '_')}-{found.version}.dist-info"
    for name in ("METADATA", "entry_points.txt"):
        yield f"{folder}/{name}", (found.read_text(name) or "").encode()


def _slim(stage: Path, selection: Selection) -> None:
    services = frozenset(selection.services) | _ALWAYS if selection.services else None
    for file in list(stage.rglob("*")):
        if file.is_file() and not _wanted(PurePosixPath(file.relative_to(stage)), services):
            file.unlink()


def _wanted(path: PurePosixPath, services: frozenset[str] | None) -> bool:
    if path.parts[0] == "bin" or "__pycache__" in path.parts or path.suffix == ".pyi":
        return False
    if path.parts[0].endswith(".dist-info") and path.name in _RECORDS:
        return False
    described = services is not None and path.parts[:2] == ("botocore", "data")
    return not described or len(path.parts) == _SHARED or path.parts[2] in (services or ())


def _compile(stage: Path, home: str) -> None:
    # The hash seed decides the order of sets in bytecode.
    command = [sys.executable, "-S", "-c", _COMPILE, str(stage), home]
    subprocess.run(command, env={"PYTHONHASHSEED": "0"}, check=True, capture_output=True)
