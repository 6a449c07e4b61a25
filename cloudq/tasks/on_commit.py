"""Delays a send until Django's open transaction commits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


def on_commit(send: Callable[[], T], promised: Callable[[], T]) -> T:
    """Send when the open transaction commits, and return the promised result at once.

    Without Django, send now. With it, Django itself sends now if no transaction is open.
    """
    transaction = _transaction()
    if transaction is None:
        return send()
    transaction.on_commit(send)
    return promised()


def _transaction() -> Any:
    """Return Django's transaction module, None if this program has not set Django up."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return None
    return import_module("django.db.transaction")
