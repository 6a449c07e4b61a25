"""cloudq on Google Cloud: Pub/Sub, Firestore, Cloud Tasks, and functions.

`cloud_event_handler` and `push_handler` make functions that run an app's tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq_gcp.functions import PushEndpoint, cloud_event_handler, push_handler

__all__ = ["PushEndpoint", "cloud_event_handler", "push_handler"]


def __getattr__(name: str) -> Any:
    # The drivers are in this package too, and must not need the app to be imported.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cloudq_gcp.functions"), name)
