"""The names of `celery.utils` that programs use."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from cloudq.contrib.celery.missing import names_of
from cloudq.contrib.celery.utils.log import LOG_LEVELS
from cloudq.messages.message import new_id as gen_unique_id
from cloudq.messages.message import new_id as uuid

__all__ = [
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
]

T = TypeVar("T")


def chunks(it: Iterable[T], n: int) -> Iterator[list[T]]:
    """Yield lists of `n` items each, the last with what is left."""
    items = iter(it)
    while part := list(islice(items, n)):
        yield part


def gen_task_name(app: Any, name: str, module_name: str) -> str:
    """Return the name of a task that is given none."""
    return app.gen_task_name(name, module_name)


def nodename(name: str | None, hostname: str | None) -> str:
    """Return a worker's name: `name@hostname`."""
    return f"{name or 'celery'}@{hostname or socket.gethostname()}"


def nodesplit(name: str) -> tuple[str | None, str]:
    """Split a worker's name in its name, None if it has none, and its host."""
    first, mark, host = name.partition("@")
    return (first, host) if mark else (None, first)


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
