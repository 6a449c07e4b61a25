"""Tells pydantic's models from other values, without loading it: before that there are none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from pydantic import BaseModel


def model_class() -> type[BaseModel] | None:
    """Return pydantic's `BaseModel`; None where nobody has loaded it."""
    return getattr(sys.modules.get("pydantic.main"), "BaseModel", None)


def is_model_class(kind: type[Any]) -> TypeGuard[type[BaseModel]]:
    """Tell whether a class is a model."""
    base = model_class()
    return base is not None and issubclass(kind, base)


def is_model(value: object) -> TypeGuard[BaseModel]:
    """Tell whether a value is a model."""
    base = model_class()
    return base is not None and isinstance(value, base)


def is_root_model(value: object) -> bool:
    """Tell whether a value is a model that stands for its one field."""
    base: Any = getattr(sys.modules.get("pydantic.root_model"), "RootModel", None)
    return base is not None and isinstance(value, base)
