"""Reads `[tool.cloudq.deploy]` of a project, and checks it as the options of a deployment."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cloudq.errors import ConfigurationError, did_you_mean, plainly

M = TypeVar("M", bound=BaseModel)

OTHER_TABLES = ("google", "azure")
"""Tables within `[tool.cloudq.deploy]`, for clouds other than AWS."""

RUNTIMES = ("python3.11", "python3.12", "python3.13")
"""Versions of Python that both cloudq and the clouds' functions run on."""


def own_runtime() -> str:
    """The runtime of the Python that runs here: the project was tested on it."""
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return own if own in RUNTIMES else RUNTIMES[-1]


def read_table(folder: Path) -> dict[str, Any]:
    """Read `[tool.cloudq.deploy]` of the project in `folder`, with the tables inside it.

    Returns an empty mapping where there is no pyproject.toml. Raises `ConfigurationError`.
    """
    file = folder / "pyproject.toml"
    if not file.is_file():
        return {}
    try:
        tools: Any = tomllib.loads(file.read_text()).get("tool", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} cannot be read as TOML: {error}") from error
    found: dict[str, Any] = tools.get("cloudq", {}).get("deploy", {})
    return {name.replace("-", "_"): value for name, value in found.items()}


def checked(model: type[M], stated: Mapping[str, Any], given: Mapping[str, Any], table: str) -> M:
    """Validate the options of a table; those `given` on the command line override them.

    Raises `ConfigurationError` that names each wrong option and the place it comes from.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return model(**{**stated, **chosen})
    except ValidationError as error:
        raise ConfigurationError(_explain(error, chosen, model, table)) from error


def _explain(
    error: ValidationError, given: Mapping[str, Any], model: type[BaseModel], table: str
) -> str:
    lines: list[str] = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "deploy"
        place = f"--{name.replace('_', '-')}" if name in given else f"{table} {name}"
        if item["type"] == "extra_forbidden":
            known = f"known: {', '.join(model.model_fields)}"
            hint = did_you_mean(name, model.model_fields, otherwise=known)
            lines.append(f"{place}: there is no such option: {hint}")
        else:
            lines.append(f"{place}: {plainly(item['msg'])}")
    return "; ".join(lines)
