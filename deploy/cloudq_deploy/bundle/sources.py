"""Selects the project's files for the zip, and refuses secrets among them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from cloudq.errors import ConfigurationError

Files = Mapping[str, Path]
"""Files to pack, by their paths in the zip."""

# Folders with nothing that a function runs.
_SKIPPED = frozenset(
    {
        "__pycache__",
        "build",
        "cdk.out",
        "dist",
        "docs",
        "env",
        "htmlcov",
        "node_modules",
        "site-packages",
        "test",
        "tests",
        "venv",
    }
)
_LEFT_OUT = ("*.pyc", "*.pyo", "*.egg-info", "*.db", "*.db-*", "*.sqlite*", "*.log", "*.swp", "*~")
# Whoever may read a function may read its zip.
_SECRET = (
    ".env",
    ".env.*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.ppk",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    ".pgpass",
    ".pypirc",
    ".npmrc",
    ".htpasswd",
    "credentials",
    "credentials.json",
    "service-account*.json",
    "service_account*.json",
)
_SECRET_FOLDERS = frozenset({".git", ".hg", ".svn", ".ssh", ".aws", ".gnupg", ".azure"})
_HARMLESS = (".env.example", ".env.sample", ".env.template")


def project_files(
    folder: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Files:
    """Find the project's modules, its packages with all their files, and what `include` names.

    Raises `ConfigurationError` for a secret among them, or a link that leaves the folder.
    """
    root = folder.resolve()
    found: dict[str, Path] = {}
    for path in _chosen(root, include, exclude):
        name = path.relative_to(root).as_posix()
        if _matches(name, exclude):
            continue
        _refuse(name, path, root)
        if path.is_file():
            found[name] = path
    if not any(name.endswith(".py") for name in found):
        raise ConfigurationError(
            f"{root} has no Python files to pack: run this in the project's folder"
        )
    return dict(sorted(found.items()))


def _chosen(root: Path, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    for entry in sorted(root.iterdir()):
        if entry.is_symlink() and entry.is_dir():
            if _holds_python(entry):
                yield entry
        elif entry.is_dir():
            if (
                not _is_skipped(entry)
                and not _matches(entry.name, exclude)
                and _holds_python(entry)
            ):
                yield from _walk(entry, root, exclude)
        elif entry.suffix == ".py":
            yield entry
    for pattern in include:
        matched = sorted(root.glob(pattern))
        if not matched:
            raise ConfigurationError(f"include: no file in {root} matches {pattern!r}")
        for path in matched:
            yield from _walk(path, root, exclude) if path.is_dir() else [path]


def _walk(folder: Path, root: Path, exclude: Sequence[str]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in sorted(folders):
            path = here / name
            if name in _SECRET_FOLDERS or path.is_symlink():
                yield path  # to be refused
        folders[:] = sorted(
            name
            for name in folders
            if not _is_skipped(here / name)
            and not _matches((here / name).relative_to(root).as_posix(), exclude)
        )
        yield from (here / name for name in sorted(files) if not _matches(name, _LEFT_OUT))


def _is_skipped(folder: Path) -> bool:
    return (
        folder.name in _SKIPPED
        or folder.name.startswith(".")
        or folder.is_symlink()
        or (folder / "pyvenv.cfg").exists()
        or _matches(folder.name, _LEFT_OUT)
    )


def _holds_python(folder: Path) -> bool:
    return any(
        name.endswith(".py")
        for place, folders, files in os.walk(folder)
        for name in (files if not _prune(place, folders) else ())
    )


def _prune(place: str, folders: list[str]) -> bool:
    folders[:] = [name for name in folders if not _is_skipped(Path(place) / name)]
    return False


def _refuse(name: str, path: Path, root: Path) -> None:
    base = PurePosixPath(name).name
    parts = PurePosixPath(name).parts
    hint = "move it out of the packages and of include, or add it to exclude"
    if _SECRET_FOLDERS.intersection(parts):
        raise ConfigurationError(f"{name} may not be packed: {hint}")
    if _matches(base, _SECRET) and base not in _HARMLESS and not base.endswith(".py"):
        raise ConfigurationError(
            f"{name} looks like a secret, and everybody who may read the function could read it: "
            f"{hint}"
        )
    if path.is_symlink():
        goal = path.resolve()
        if not goal.is_relative_to(root):
            raise ConfigurationError(f"{name} is a link that leaves the project, to {goal}: {hint}")
        if goal.is_dir():
            raise ConfigurationError(f"{name} is a link to a folder: copy it, or add it to exclude")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern.rstrip("/")) for pattern in patterns)
