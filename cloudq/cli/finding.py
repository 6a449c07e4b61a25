"""Finds the app of the current folder where none is named, as `flask run` does."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cloudq.errors import ConfigurationError

FILES = ("tasks.py", "app.py")
_PROJECT = "pyproject.toml"
# An app of this module, and not one of another library: the file is read before it is imported.
_MAKES_AN_APP = re.compile(
    r"^\w+(?:\s*:\s*[\w.]+)?\s*=\s*(?:\w+\.)*(?:CloudQ|Celery)\(", re.MULTILINE
)
_MOST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The app that a folder has: its `module:attribute`, and the file that says so."""

    path: str
    file: str

    @property
    def is_guessed(self) -> bool:
        """Tell whether nobody has named the app: a file of this name is there."""
        return self.file != _PROJECT


def app_of(folder: Path) -> Found | None:
    """Return the app that `[tool.cloudq]` of pyproject.toml names, else that of tasks.py or app.py.

    Raises `ConfigurationError` for a pyproject.toml that cannot be read.
    """
    stated = _stated(folder / _PROJECT)
    if stated is not None:
        return Found(path=stated, file=_PROJECT)
    for name in FILES:
        if _makes_an_app(folder / name):
            return Found(path=Path(name).stem, file=name)
    return None


def _stated(file: Path) -> str | None:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    if "tool.cloudq" not in text and "[tool]" not in text:
        return None
    try:
        app = tomllib.loads(text).get("tool", {}).get("cloudq", {}).get("app")
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file.name} is not TOML: {error}") from error
    if app is not None and not isinstance(app, str):
        raise ConfigurationError(f'{file.name}, [tool.cloudq] app: give "module:app", not {app!r}')
    return app


def _makes_an_app(file: Path) -> bool:
    try:
        if file.stat().st_size > _MOST:
            return False
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return "cloudq" in text and _MAKES_AN_APP.search(text) is not None
