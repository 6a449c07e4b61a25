"""Deployment hints from a task's decorator: memory, timeout, concurrency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, cast

from cloudq.amounts import count
from cloudq.driver.immutable import immutable
from cloudq.errors import ConfigurationError

_VARIABLE = r"[A-Za-z][A-Za-z0-9_]*"
_NUMBERS = {
    "memory": (1, "MB"),
    "timeout": (1, "seconds"),
    "max_concurrency": (1, "invocations at a time"),
    "reserved_concurrency": (0, "invocations at a time"),
    "provisioned": (0, "environments kept warm"),
    "batch_size": (1, "messages"),
    "batch_window": (0, "seconds"),
}


@immutable
class FunctionHints:
    """Hints for a deployment; None means its default. Workers ignore them.

    `memory` (MB) and `timeout` (seconds) apply to the function. The queue runs at most
    `max_concurrency` invocations at a time, the account reserves `reserved_concurrency` for the
    function and keeps `provisioned` warm. One invocation gets up to `batch_size` messages,
    gathered for up to `batch_window` seconds. `env` has its environment variables. A hint that a
    cloud does not support is an error when the deployment is planned.
    """

    memory: int | None = None
    timeout: int | None = None
    max_concurrency: int | None = None
    reserved_concurrency: int | None = None
    provisioned: int | None = None
    batch_size: int | None = None
    batch_window: int | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def function_hints_of(options: dict[str, Any]) -> FunctionHints | None:
    """Take the hints out of a task's options; None if there are none.

    Raises `ConfigurationError`.
    """
    names = [each.name for each in fields(FunctionHints)]
    given = {name: options.pop(name) for name in names if options.get(name) is not None}
    for name in names:
        options.pop(name, None)
    if not given:
        return None
    for name, (least, unit) in _NUMBERS.items():
        if name in given:
            count(given[name], name, ConfigurationError, least=least, unit=unit)
    if "env" in given:
        given["env"] = _variables(given["env"])
    return FunctionHints(**given)


def _variables(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f'env is {given!r}: it must be a mapping such as {{"MODE": "x"}}')
    variables = cast("Mapping[object, object]", given)
    for name, value in variables.items():
        if not isinstance(name, str) or not re.fullmatch(_VARIABLE, name):
            raise ConfigurationError(
                f"env has {name!r}: the name of a variable is letters, digits and _, "
                "and starts with a letter"
            )
        if not isinstance(value, str):
            raise ConfigurationError(f"env: {name} is {value!r}: it must be a string")
    return dict(cast("Mapping[str, str]", variables))
