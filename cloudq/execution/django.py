"""Cares for Django's connections around each call, as Django does around each request.

It is called where the program has configured Django, which it imports only then.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable
from importlib import import_module
from typing import Any

log = logging.getLogger("cloudq.execution")


def before_call() -> None:
    """Close connections of this thread that are broken or too old, and forget logged queries."""
    try:
        database: Any = import_module("django.db")
        database.reset_queries()
        _close_old(database)
    except Exception:  # the task would say it better, if it uses the database at all
        log.exception("Django's connections could not be looked after")


def after_call() -> None:
    """Close connections of this thread that are broken or too old, to databases and caches.

    One within a transaction stays as it is, such as that of a test case.
    """
    try:
        database: Any = import_module("django.db")
        _close_old(database)
        cache: Any = sys.modules.get("django.core.cache")
        if cache is not None:
            cache.close_caches()
    except Exception:
        log.exception("Django's connections could not be looked after")


def _close_old(database: Any) -> None:
    """Close what is broken or too old; within a transaction Django would break that."""
    for connection in database.connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


async def with_own_connections(call: Awaitable[Any]) -> Any:
    """Await a call whose queries run in a thread of its own, and close its connections.

    Coroutines share the thread of their event loop, and would share one thread for their queries:
    what one closes, another may be using. Django does the same for requests under ASGI.
    """
    sync: Any = import_module("asgiref.sync")
    async with sync.ThreadSensitiveContext() as context:
        try:
            return await call
        finally:
            if context in sync.SyncToAsync.context_to_thread_executor:  # it has used a thread
                await sync.sync_to_async(_close_all)()


def _close_all() -> None:
    """Close the connections of a thread that ends."""
    try:
        database: Any = import_module("django.db")
        database.connections.close_all()
    except Exception:
        log.exception("Django's connections could not be closed")
