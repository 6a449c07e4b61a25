"""Cares for Django's connections around each call, as Django does around each request.

It is called where the program has configured Django, which it imports only then.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Sequence
from importlib import import_module
from typing import Any

from cloudq.driver.log import Log

log = Log("cloudq.execution")


def before_call() -> Sequence[object]:
    """Close connections of this thread that are broken or too old, and forget logged queries.

    Returns those that are within a transaction, such as that of a test case; `after_call` takes
    them.
    """
    try:
        database: Any = import_module("django.db")
        database.reset_queries()
        return _close_old(database)
    except Exception:  # the task would say it better, if it uses the database at all
        log.exception("Django's connections could not be looked after")
        return ()


def after_call(in_transaction: Sequence[object]) -> None:
    """Close connections of this thread that are broken or too old, to databases and caches.

    One within a transaction stays as it is if it was so before the call. Else the call has left
    the transaction open: it is rolled back, or it would be that of the next call too.
    """
    try:
        database: Any = import_module("django.db")
        for connection in _close_old(database):
            if connection not in in_transaction:
                log.warning("a task has left a transaction open, which is rolled back")
                connection.close()
                del database.connections[connection.alias]  # it would still count as within it
        cache: Any = sys.modules.get("django.core.cache")
        if cache is not None:
            cache.close_caches()
    except Exception:
        log.exception("Django's connections could not be looked after")


def _close_old(database: Any) -> Sequence[Any]:
    """Close what is broken or too old; return those within a transaction, which that would break.

    One that an error may have broken is closed too: not every database can be asked whether it is.
    """
    in_transaction: list[Any] = []
    for connection in database.connections.all(initialized_only=True):
        if connection.in_atomic_block:
            in_transaction.append(connection)
        elif connection.errors_occurred:
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()
            # The next query asks first if the server has closed it meanwhile: where a request
            # would be sent again by its user, a task would have failed for good.
            connection.health_check_enabled = True
    return in_transaction


def before_fork() -> None:
    """Close the connections of this thread: what loading the app has opened, no two may share.

    Nothing is done where the program has not configured Django.
    """
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return
    _close_all()
    cache: Any = sys.modules.get("django.core.cache")
    if cache is not None:
        cache.close_caches()


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
    """Close the connections of this thread."""
    try:
        database: Any = import_module("django.db")
        database.connections.close_all()
    except Exception:
        log.exception("Django's connections could not be closed")
