"""Reads the option --edit: the arguments of a call that are to change."""

from __future__ import annotations

from typing import Any

import orjson

from cloudq.errors import ConfigurationError
from cloudq.messages.json_text import is_list, is_object
from cloudq.operations.dead_actions import Edit


def edit_of(text: str) -> Edit:
    """Read a list of positional arguments, or an object of named ones, as JSON.

    Raises `ConfigurationError`.
    """
    try:
        read: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"--edit is not JSON: {error}") from error
    if is_list(read):
        return Edit(args=read)
    if is_object(read):
        return Edit(kwargs=read)
    raise ConfigurationError("--edit: give a JSON object or a JSON list")
