"""Selects the distributions that go into the zip, each at one exact version.

The project's lock file pins them (`requirements.lock`, else `requirements.txt`, each line pinned).
Dependencies of cloudq that the file does not name get the version that is installed here, so that
the tested versions are deployed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cloudq.errors import DISTRIBUTION, ConfigurationError

_FILES = ("requirements.lock", "requirements.txt")
_NEEDED = f"{DISTRIBUTION}[aws]"
# Somebody else's package on the public index, which is imported by the same name.
_STRANGER = "cloudq"
# Extras of cloudq; of these, a zip gets the libraries of its own cloud only.
_CLOUDS = frozenset({"all", "aws", "azure", "deploy", "gcp"})
# Needed by the command line only, which no function runs.
_COMMAND_LINE = frozenset({"rich", "typer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The platform that runs the code: `python` such as 3.13, `architecture` by Lambda's name."""

    python: str
    architecture: str

    @property
    def machine(self) -> str:
        """The architecture, by Python's name for it."""
        return {"arm64": "aarch64", "x86_64": "x86_64"}[self.architecture]

    @property
    def wheels(self) -> str:
        """The platform tag of wheels that run there, as uv takes it.

        Lambda's Python 3.11 is on Amazon Linux 2 (glibc 2.26), later ones on 2023 (glibc 2.34).
        """
        return f"{self.machine}-manylinux_2_{17 if self.python == '3.11' else 28}"

    @property
    def markers(self) -> dict[str, str]:
        """The values that environment markers of requirements are evaluated with."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


Pins = Mapping[str, str]
"""The requirement line that installs each distribution, by canonical name."""


def locked(
    folder: Path, platform: Platform, file: str | None = None, needed: str = _NEEDED
) -> Pins:
    """Pin all that the project in `folder` needs, with a cloud's extra of cloudq.

    Raises `ConfigurationError`.
    """
    path = _lock_file(folder, file)
    pins = dict(_read(path, platform)) if path else {}
    wanted = [Requirement(needed), *([] if path else _declared(folder))]
    for name, version in _installed(wanted, platform, pins):
        pins[name] = f"{name}=={version}"
    pins.pop(DISTRIBUTION, None)
    return dict(sorted(pins.items()))


def _lock_file(folder: Path, named: str | None) -> Path | None:
    if named is not None:
        path = folder / named
        if not path.is_file():
            raise ConfigurationError(f"requirements: there is no file {path}")
        return path
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def _read(path: Path, platform: Platform) -> Iterator[tuple[str, str]]:
    text = path.read_text().replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        stated = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
        stated = re.split(r"\s--hash=", stated, maxsplit=1)[0].strip()
        if not stated or stated.startswith(("--index-url", "--extra-index-url", "-i ")):
            continue
        where = f"{path.name}, line {number}"
        if stated.startswith("-"):
            raise ConfigurationError(
                f"{where}: {stated!r} cannot be packed: write one file of pinned requirements "
                "(uv pip compile pyproject.toml -o requirements.lock)"
            )
        try:
            requirement = Requirement(stated)
        except InvalidRequirement as error:
            raise ConfigurationError(f"{where}: {stated!r}: {error}") from error
        if requirement.marker and not requirement.marker.evaluate(platform.markers):
            continue
        name = _own_name(requirement, where)
        if name != DISTRIBUTION and not _is_pinned(requirement):
            raise ConfigurationError(
                f"{where}: {stated!r} is not an exact version, so two builds could differ: pin all "
                "requirements (uv pip compile pyproject.toml -o requirements.lock)"
            )
        requirement.marker = None
        yield name, str(requirement)


def _is_pinned(requirement: Requirement) -> bool:
    specifiers = list(requirement.specifier)
    exact = len(specifiers) == 1 and specifiers[0].operator == "=="
    return exact and not specifiers[0].version.endswith("*")


def _declared(folder: Path) -> list[Requirement]:
    file = folder / "pyproject.toml"
    if not file.is_file():
        return []
    stated = tomllib.loads(file.read_text()).get("project", {}).get("dependencies", [])
    found = [Requirement(text) for text in stated]
    for requirement in found:
        if _own_name(requirement, file.name) == DISTRIBUTION:
            requirement.extras -= _CLOUDS
    return found


def _own_name(requirement: Requirement, where: str) -> str:
    name = canonicalize_name(requirement.name)
    if name == _STRANGER:
        raise ConfigurationError(
            f"{where}: {str(requirement)!r} is the package of another project: write {DISTRIBUTION}"
        )
    return name


def _installed(
    wanted: Iterable[Requirement], platform: Platform, pinned: Pins
) -> Iterator[tuple[str, str]]:
    """Find all dependencies of these, direct and indirect, with the versions installed here."""
    waiting = [(requirement, "the project") for requirement in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, parent = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or (name in pinned and name != DISTRIBUTION):
            continue
        seen.add(key)
        found = _distribution(name, parent)
        if name != DISTRIBUTION:
            yield name, found.version
        waiting += [
            (needed, name)
            for needed in map(Requirement, found.requires or ())
            if _applies(needed, requirement, platform)
            and not (name == DISTRIBUTION and needed.name in _COMMAND_LINE)
        ]


def _distribution(name: str, parent: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise ConfigurationError(
            f"{name}, which {parent} needs, is not installed here, so its version is unknown: "
            f"pip install {name}, or pin it in requirements.lock"
        ) from error


def _applies(needed: Requirement, by: Requirement, platform: Platform) -> bool:
    marker = needed.marker
    if marker is None:
        return True
    extras = by.extras or {""}
    return any(marker.evaluate(platform.markers | {"extra": extra}) for extra in extras)
