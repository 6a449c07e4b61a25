"""Optional libraries: imported when they are first needed, with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cloudq.errors import ConfigurationError, install_hint


def library(module: str, *, extra: str) -> Any:
    """An optional module. Raises `ConfigurationError` where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{extra} needs a library that is not installed: {install_hint(extra)}"
        ) from error


def invalid_tag() -> type[Exception]:
    """Return the error of a cipher for what was changed, or not encrypted under its key."""
    tag: type[Exception] = library("cryptography.exceptions", extra="crypto").InvalidTag
    return tag
