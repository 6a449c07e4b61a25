"""From a project to the zip that its functions run: `cloudq deploy build`."""

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
from typing import Protocol

from cloudq.errors import DISTRIBUTION, ConfigurationError
from cloudq_deploy.bundle import archive, sources, wheels
from cloudq_deploy.bundle.lock import Pins, Platform, locked

ENTRY = "cloudq_function.py"
# Records of the installation, with paths of this machine in them; scripts, with its Python's.
_RECORDS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
# Asked for by boto3 itself, whatever the program asks for.
_ALWAYS = frozenset({"sts", "sso", "sso-oidc", "signin"})
_SHARED = 3  # parts of botocore/data/endpoints.json: what all services share lies beside them

_HANDLER = '''"""The handler of the Lambda functions of {entry}."""

import os

from {module} import {attribute} as app

from cloudq_aws import lambda_handler

# Above whatever the code says: the stack knows where its queues and its table are.
app.configure(broker=os.environ["CLOUDQ_BROKER"], backend=os.environ["CLOUDQ_BACKEND"])
if "CLOUDQ_SCHEDULER" in os.environ:
    app.configure(scheduler=os.environ["CLOUDQ_SCHEDULER"])
handler = lambda_handler(app)
'''
_COMPILE = """
import sys
from pathlib import Path
from py_compile import PycInvalidationMode, compile
root = Path(sys.argv[1])
for path in sorted(root.rglob("*.py")):
    compile(path, dfile=sys.argv[2] + path.relative_to(root).as_posix(), quiet=2,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
"""


class Selection(Protocol):
    """What a deployment says of its zip: for which Python, and what goes into it."""

    @property
    def python(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def include(self) -> Sequence[str]: ...
    @property
    def exclude(self) -> Sequence[str]: ...
    @property
    def services(self) -> Sequence[str]: ...
    @property
    def requirements(self) -> str | None: ...


def entry_text(entry: str) -> bytes:
    """The module with the functions' handler, for Lambda."""
    return filled(_HANDLER, entry)


def filled(template: str, entry: str) -> bytes:
    """A module that imports the app: `{entry}`, `{module}` and `{attribute}` are put in."""
    module, _, attribute = entry.partition(":")
    return template.format(entry=entry, module=module, attribute=attribute).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """What a cloud's zip has beside the project, and where.

    `extra` of cloudq names the dependencies, `adapter` the package that goes along: the other
    clouds' stay at home. `own` are the modules written for an entry, by name. Dependencies are
    below `prefix` in the zip, and the zip lies in `home` when it runs.
    """

    extra: str
    adapter: str
    own: Callable[[str], Mapping[str, bytes]]
    prefix: str = ""
    home: str
    limit: archive.Limit


LAMBDA = Cargo(
    extra="aws",
    adapter="cloudq_aws",
    own=lambda entry: {ENTRY: entry_text(entry)},
    home="/var/task/",
    limit=archive.LAMBDA,
)


def build(
    folder: Path,
    entry: str,
    target: Selection,
    path: Path,
    say: Callable[[str], None] = lambda _: None,
    cargo: Cargo = LAMBDA,
) -> archive.Package:
    """Write the zip of the project in `folder` to `path`. `entry` is `module:attribute`.

    Raises `ConfigurationError` for what cannot be packed; then there is no zip.
    """
    platform = Platform(python=target.python, architecture=target.architecture)
    own = sources.project_files(folder, include=target.include, exclude=target.exclude)
    check_entry(entry, own)
    written = cargo.own(entry)
    taken = sorted(own.keys() & written.keys())
    if taken:
        raise ConfigurationError(
            f"{taken[0]} of the project has the name of a file that the deployment writes: rename "
            "it, or add it to exclude"
        )
    pins = locked(folder, platform, target.requirements, f"{DISTRIBUTION}[{cargo.extra}]")
    needed = dependencies(pins, platform, target, cargo, folder / "build")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != target.python:
        say(
            f"without bytecode, so cold starts are slower: here is Python {here}, the "
            f"functions have {target.python}"
        )
    with TemporaryDirectory(prefix="cloudq-") as room:
        stage = Path(room)
        for name, content in cloudq_files(cargo.adapter):
            put(stage / cargo.prefix / name, content)
        _lay(stage, own, written, needed)
        contents = {**needed, **_finished(stage, target, cargo)}
        return archive.write(contents, path, cargo.limit)


def check_entry(entry: str, own: sources.Files) -> None:
    """Raise `ConfigurationError` if the app's module is not packed."""
    module = entry.partition(":")[0].replace(".", "/")
    if not any(name in own for name in (f"{module}.py", f"{module}/__init__.py")):
        raise ConfigurationError(
            f"the app's module {entry} is not among the project's files: run this in the "
            "project's folder, or see include and exclude"
        )


def _lay(
    stage: Path, own: sources.Files, written: Mapping[str, bytes], needed: archive.Contents
) -> None:
    for name, file in own.items():
        if name in needed or (stage / name).exists():
            raise ConfigurationError(
                f"{name} of the project has the name of a file of an installed package: rename it"
            )
        put(stage / name, file.read_bytes())
    for name, content in written.items():
        put(stage / name, content)


def dependencies(
    pins: Pins, platform: Platform, target: Selection, cargo: Cargo, kept: Path
) -> archive.Contents:
    """The files of the pinned wheels. In the folder `kept` they are found again by the next build.

    Raises `ConfigurationError` for a wheel that there is not.
    """
    # All that they are made of: exact versions are the same files for ever.
    made_of = (
        sorted(pins.items()),
        platform,
        sorted(target.services),
        sys.version,
        cargo.prefix,
        cargo.home,
    )
    path = kept / f"wheels-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.zip"
    if (found := archive.read(path)) is not None:
        return found
    with TemporaryDirectory(prefix="cloudq-") as room:
        stage = Path(room) / "stage"
        packages = stage / cargo.prefix
        packages.mkdir(parents=True)
        wheels.install(pins, platform, packages)
        _slim(packages, target)
        contents = _finished(stage, target, cargo)
    for old in kept.glob("wheels-*.zip"):
        old.unlink(missing_ok=True)
    archive.write(contents, path, cargo.limit)
    return contents


def _finished(stage: Path, target: Selection, cargo: Cargo) -> archive.Contents:
    """The stage's files, with bytecode if the Python here is the function's."""
    if target.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        _compile(stage, cargo.home)
    return {
        file.relative_to(stage).as_posix(): file.read_bytes()
        for file in stage.rglob("*")
        if file.is_file()
    }


def put(path: Path, content: bytes) -> None:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def cloudq_files(adapter: str = LAMBDA.adapter) -> Iterator[tuple[str, bytes]]:
    """This very cloudq: its core, its adapter, and the entry points that URLs are found by."""
    for package in ("cloudq", adapter):
        root = Path(str(import_module(package).__file__)).parent
        for file in root.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package}/{file.relative_to(root).as_posix()}", file.read_bytes()
    found = distribution(DISTRIBUTION)
    folder = f"{DISTRIBUTION.replace('-', '_')}-{found.version}.dist-info"
    for name in ("METADATA", "entry_points.txt"):
        yield f"{folder}/{name}", (found.read_text(name) or "").encode()


def _slim(stage: Path, target: Selection) -> None:
    services = frozenset(target.services) | _ALWAYS if target.services else None
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
    # The order of sets in bytecode goes by the hash seed.
    command = [sys.executable, "-S", "-c", _COMPILE, str(stage), home]
    subprocess.run(command, env={"PYTHONHASHSEED": "0"}, check=True, capture_output=True)
