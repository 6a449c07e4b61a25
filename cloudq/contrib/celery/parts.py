"""The rooms of cloudq that this layer takes names from when they are there."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from cloudq.app import CloudQ


def part(home: str, name: str) -> Any:
    """A name of one of cloudq's modules. Raises `ImportError` where this release lacks it."""
    try:
        return getattr(import_module(home), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ImportError(f"this release of cloudq has no {name} ({home})") from error


def task_class(given: type[Any]) -> dict[str, Any]:
    """What makes an app's tasks instances of a class, where apps take one."""
    takes = "task_cls" in inspect.signature(CloudQ.__init__).parameters
    return {"task_cls": given} if takes else {}
