"""Reads the entry points of installed distributions, most of the time without importlib.metadata.

That takes 40 ms to import and reads each distribution's file twice. Where all of the import path is
folders, which it nearly always is, they are read here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

_OURS = "[cloudq."


class EntryPoint(NamedTuple):
    """A name under which a distribution provides an object, and where that is."""

    group: str
    name: str
    value: str

    @property
    def distribution(self) -> str | None:
        """The name of the distribution, for messages; None where none is known."""
        from importlib import metadata

        found = metadata.entry_points(group=self.group, name=self.name, value=self.value)
        return next((entry.dist.name for entry in found if entry.dist is not None), None)

    @property
    def module(self) -> str:
        """The name of the module that has the object."""
        return self.value.partition(":")[0].strip()

    def load(self) -> Any:
        """Import the object. Raises `ImportError`, `AttributeError`."""
        found: Any = import_module(self.module)
        for name in filter(None, self.value.partition(":")[2].strip().split(".")):
            found = getattr(found, name)
        return found


class _Unknown(Exception):
    """Raised where distributions may be found by other means than folders."""


def entry_points(group: str) -> Sequence[EntryPoint]:
    """Return the entry points of a group, one of cloudq's, by name."""
    return _of_group(group, tuple(sys.path))


def forget() -> None:
    """Forget what is installed, for there may be more by now."""
    _all.cache_clear()
    _of_group.cache_clear()


@lru_cache(maxsize=128)
def _of_group(group: str, path: tuple[str, ...]) -> Sequence[EntryPoint]:
    found = _all(path)
    if found is None:
        return sorted(_by_metadata(group))
    return sorted(entry for entry in found if entry.group == group)


# Reads a file of each installed distribution.
@lru_cache(maxsize=32)
def _all(path: tuple[str, ...]) -> Sequence[EntryPoint] | None:
    """Return the entry points of all groups; None where more than folders must be looked at."""
    if any(map(_knows_distributions, sys.meta_path)):
        return None
    try:
        return list(_in_folders(path))
    except _Unknown:
        return None


def _knows_distributions(finder: object) -> bool:
    """Tell whether a finder of the program's own may know distributions."""
    is_pythons = getattr(finder, "__name__", "") == "PathFinder"
    return not is_pythons and hasattr(finder, "find_distributions")


def _in_folders(path: Sequence[str]) -> Iterator[EntryPoint]:
    seen: set[str] = set()  # the first of a name counts
    for folder in path:
        try:
            names = sorted(os.listdir(folder or "."))
        except FileNotFoundError:
            continue
        except OSError as error:  # a zip file, say
            raise _Unknown from error
        for name in names:
            distribution, dot, kind = name.rpartition(".")
            if not dot or kind not in ("dist-info", "egg-info", "egg"):
                continue
            if kind == "egg":
                raise _Unknown
            distribution = distribution.partition("-")[0]
            key = distribution.lower().replace("-", "_").replace(".", "_")
            if key not in seen:
                seen.add(key)
                yield from _in_text(_text(f"{folder or '.'}/{name}/entry_points.txt"))


def _text(file: str) -> str:
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError):  # most have none
        return ""


def _in_text(text: str) -> Iterator[EntryPoint]:
    if _OURS not in text:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[]")
        elif "=" in line and group.startswith("cloudq.") and not line.startswith("#"):
            name, _, value = line.partition("=")
            value = value.partition("[")[0]  # extras
            yield EntryPoint(group, name.strip(), value.strip())


def _by_metadata(group: str) -> Iterator[EntryPoint]:
    from importlib import metadata

    for entry in metadata.entry_points(group=group):
        yield EntryPoint(entry.group, entry.name, entry.value)
