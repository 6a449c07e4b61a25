"""Delays a send until Django's open transaction commits."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

from cloudq.results.waiting import Promise


def on_commit(send: Callable[[], object], promise: Promise) -> None:
    """Send when the open transaction commits; without Django now.

    With it, Django itself sends now if no transaction is open. It drops what it will not send,
    which `promise` is told.
    """
    transaction = _transaction()
    if transaction is None:
        send()
    else:
        weakref.finalize(send, promise.drop).atexit = False
        transaction.on_commit(send)


def _transaction() -> Any:
    """Return Django's transaction module, None if this program has not set Django up."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return None
    return import_module("django.db.transaction")
