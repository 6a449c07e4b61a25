"""cloudq on Azure: Service Bus, Table storage, and functions (`register`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq_azure.functions import Timer, register

__all__ = ["Timer", "register"]


def __getattr__(name: str) -> Any:
    # The drivers are in this package too, and must not need azure-functions to be imported.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cloudq_azure.functions"), name)
