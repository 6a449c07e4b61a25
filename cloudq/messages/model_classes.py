"""Tells pydantic's models and secrets from other values, without loading it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from pydantic import BaseModel, SecretStr


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


def secret_classes() -> tuple[type[Any], ...]:
    """Return pydantic's classes of secrets; none where nobody has loaded it."""
    types: Any = sys.modules.get("pydantic.types")
    return () if types is None else (types.SecretStr, types.SecretBytes, types.Secret)


def is_secret(value: object) -> TypeGuard[SecretStr]:
    """Tell whether a value is a `SecretStr`, a `SecretBytes` or a `Secret`."""
    return isinstance(value, secret_classes())
