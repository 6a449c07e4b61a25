"""Delays a send until Django's open transaction commits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def on_commit(send: Callable[[], object]) -> None:
    """Send when the open transaction commits; without Django now.

    With it, Django itself sends now if no transaction is open.
    """
    transaction = _transaction()
    if transaction is None:
        send()
    else:
        transaction.on_commit(send)


def _transaction() -> Any:
    """Return Django's transaction module, None if this program has not set Django up."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return None
    return import_module("django.db.transaction")
