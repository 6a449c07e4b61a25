"""Waits for Django's transaction to commit, where there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


def on_commit(send: Callable[[], T], promised: Callable[[], T]) -> T:
    """Send when the open transaction commits and return what is promised; without one, now.

    Django itself calls at once where no transaction is open.
    """
    transaction = _transaction()
    if transaction is None:
        return send()
    transaction.on_commit(send)
    return promised()


def _transaction() -> Any:
    """Django's module, if this program has set Django up; it is never imported for its own sake."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return None
    return import_module("django.db.transaction")
