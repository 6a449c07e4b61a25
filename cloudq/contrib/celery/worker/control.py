"""Commands of one's own for workers, under the names of `celery.worker.control`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cloudq.contrib.celery.current import the_app
from cloudq.contrib.celery.missing import names_of
from cloudq.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

# What the command's help is made of: its docstring and its parameters say the same here.
_SAID = frozenset({"help", "signature", "visible", "default_timeout", "type"})


def control_command(
    *, name: str | None = None, args: Any = (), variadic: Any = False, **more: Any
) -> Callable[[F], F]:
    """Add a command to the workers of the current app; see `app.control.control_command`.

    Raises `ConfigurationError`, also where there is no app yet: import its module first.
    """
    _check(more)
    return the_app().control.control_command(name=name, args=args or (), variadic=bool(variadic))


def inspect_command(
    *, name: str | None = None, args: Any = (), variadic: Any = False, **more: Any
) -> Callable[[F], F]:
    """Add a command that only reads, as `control_command` does."""
    _check(more)
    return the_app().control.inspect_command(name=name, args=args or (), variadic=bool(variadic))


def _check(more: dict[str, Any]) -> None:
    unknown = {key for key, value in more.items() if value is not None} - _SAID
    if unknown:
        raise ConfigurationError(
            f"a worker's command has no {min(unknown)}: it has a name, args and variadic"
        )


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
