"""Claims on idempotency keys: of equal calls one runs, the others get its result.

The states are those of Powertools' idempotency: in progress until a time, then completed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.backend import Backend
from cloudq.codec import dump_value
from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.message import TaskMessage

# While the first call runs its claim lasts this long, unless its time limit says better.
_IN_PROGRESS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The key is ours: run the task, then complete or drop the claim."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An equal call has succeeded already, and this is its value as JSON text."""

    owner: str
    value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """An equal call is running."""

    owner: str


def key_of(
    message: TaskMessage,
    rule: bool | Callable[..., str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Key | None:
    """The claim's key for one call, or None when the call is not idempotent."""
    if message.idempotency_key is not None:
        name = message.idempotency_key
    elif callable(rule):
        name = str(rule(*args, **kwargs))
    elif rule:
        text = dump_value([list(args), dict(sorted(kwargs.items()))])
        name = hashlib.sha256(text.encode()).hexdigest()
    else:
        return None
    return Key(f"once#{message.task}#{name}")


def claim(
    backend: Backend, key: Key, owner: str, time_limit: float | None
) -> Claimed | Done | Busy:
    """Claim a key for a task id; a redelivered task may claim again what it had claimed."""
    change = Change(
        set={"owner": owner, "done": False},
        remove=frozenset({"value"}),
        expires=time.time() + (time_limit or _IN_PROGRESS),
        when=(
            Check(field="owner", op=Op.EQ, value=owner, or_absent=True),
            Check(field="done", op=Op.EQ, value=False, or_absent=True),
        ),
    )
    try:
        backend.update(key, change)
    except ConditionFailed as error:
        fields: Mapping[str, Value] = error.current.fields if error.current else {}
        other = str(fields.get("owner"))
        if not fields.get("done"):
            return Busy(owner=other)
        value = fields.get("value")
        return Done(owner=other, value=value if isinstance(value, str) else None)
    return Claimed(key=key)


def completed(key: Key, owner: str, value: str | None, expires: float) -> Item:
    """The item that tells equal calls the value."""
    return Item(key=key, fields={"owner": owner, "done": True, "value": value}, expires=expires)
