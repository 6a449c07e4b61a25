"""Checks the arguments of the built-in commands before a worker acts on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloudq.errors import ConfigurationError
from cloudq.messages.fields import LONGEST_LIMIT
from cloudq.messages.model import Name, QueueName
from cloudq.tasks.limits.rules import rate_of

# No machine runs so many, and a slip of the keyboard must not start them.
_MOST_PROCESSES = 1000

_Processes = Annotated[int, Field(ge=1, le=_MOST_PROCESSES)]
_Seconds = Annotated[float, Field(gt=0, le=LONGEST_LIMIT, allow_inf_nan=False)]
_Task = Annotated[Name, Field(min_length=1)]
_Queue = Annotated[QueueName, Field(min_length=1)]
_Ids = Name | list[Name]


class _Arguments(BaseModel):
    """The arguments of a command, of exactly their types."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Revoke(_Arguments):
    task_id: _Ids
    terminate: bool = False
    signal: Annotated[str, Field(max_length=32)] = "SIGTERM"


class _Query(_Arguments):
    ids: _Ids


class _RateLimit(_Arguments):
    task_name: _Task
    rate_limit: Annotated[str, Field(max_length=64)] | int | float | None


class _TimeLimit(_Arguments):
    task_name: _Task
    soft: _Seconds | None = None
    hard: _Seconds | None = None


class _Count(_Arguments):
    n: _Processes = 1


class _Autoscale(_Arguments):
    max: _Processes
    min: _Processes | None = None


class _Consumer(_Arguments):
    queue: _Queue


_COMMANDS: Mapping[str, type[_Arguments]] = {
    "query_task": _Query,
    "revoke": _Revoke,
    "rate_limit": _RateLimit,
    "time_limit": _TimeLimit,
    "pool_grow": _Count,
    "pool_shrink": _Count,
    "autoscale": _Autoscale,
    "add_consumer": _Consumer,
    "cancel_consumer": _Consumer,
}


def checked(command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a built-in command's arguments as it takes them. Raises `ConfigurationError`."""
    model = _COMMANDS.get(command, _Arguments)
    try:
        read = model.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"command {command}: {place[:100]}: {first['msg']}") from error
    if isinstance(read, _RateLimit):
        rate_of(read.rate_limit)
    if isinstance(read, _TimeLimit) and read.soft and read.hard and read.soft > read.hard:
        raise ConfigurationError(f"command {command}: soft is above hard")
    return {name: getattr(read, name) for name in read.model_fields_set}
