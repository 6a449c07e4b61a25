"""The commands that workers accept: their names, arguments and functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from cloudq.amounts import counted
from cloudq.errors import ConfigurationError, did_you_mean

Kind = Literal["inspect", "control"]
Run = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg:
    """An argument of a command; `read` parses it from the text of a command line."""

    name: str
    read: Callable[[str], Any] = str
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One command. With `variadic` its last argument is a list of all remaining words.

    `run` is None for the built-in commands, which the worker runs itself.
    """

    name: str
    kind: Kind
    help: str = ""
    args: tuple[Arg, ...] = ()
    variadic: bool = False
    run: Run | None = None

    def usage(self) -> str:
        """The name and its arguments, as on a command line."""
        shown = [a.name.upper() if a.required else f"[{a.name.upper()}]" for a in self.args]
        if self.variadic:
            shown[-1] += "..."
        return " ".join([self.name, *shown])

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """The arguments in the words of a command line. Raises `ConfigurationError`."""
        given = list(words)
        required = sum(arg.required for arg in self.args)
        if len(given) < required or (len(given) > len(self.args) and not self.variadic):
            raise ConfigurationError(
                f"command {self.name} got {counted(len(given), 'argument')}; usage: {self.usage()}"
            )
        found: dict[str, Any] = {}
        for place, arg in enumerate(self.args):
            if self.variadic and place == len(self.args) - 1:
                found[arg.name] = [self._read(arg, word) for word in given[place:]]
            elif place < len(given):
                found[arg.name] = self._read(arg, given[place])
        return found

    def _read(self, arg: Arg, word: str) -> Any:
        try:
            return arg.read(word)
        except ValueError as error:
            raise ConfigurationError(f"{self.name}: {arg.name}: {error}") from error

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `ConfigurationError` for unknown or missing arguments."""
        known = {arg.name for arg in self.args}
        unknown = sorted(set(arguments) - known)
        missing = [arg.name for arg in self.args if arg.required and arg.name not in arguments]
        if unknown or missing:
            what = f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}"
            raise ConfigurationError(f"command {self.name}: {what}; usage: {self.usage()}")


def positive(word: str) -> int:
    """A whole number of one or more. Raises `ValueError`."""
    if not (word.isascii() and word.isdecimal() and len(word) < 10 and int(word) >= 1):
        raise ValueError(f"{word!r} is not a whole number of 1 or more")
    return int(word)


def seconds(word: str) -> float:
    """A number of seconds above zero. Raises `ValueError`."""
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < inf:
        raise ValueError(f"{word!r} is not a number of seconds above 0")
    return number


_TASK, _QUEUE = Arg(name="task_name"), Arg(name="queue")
_COUNT = Arg(name="n", read=positive, required=False)
_IDS = (Arg(name="ids"),)

BUILTIN: tuple[Spec, ...] = (
    Spec(name="ping", kind="inspect", help="List the workers that reply."),
    Spec(name="active", kind="inspect", help="Show the running tasks."),
    Spec(name="reserved", kind="inspect", help="Show received tasks that wait for a free slot."),
    Spec(name="scheduled", kind="inspect", help="Show delayed tasks, if the broker can list them."),
    Spec(name="registered", kind="inspect", help="Show the registered tasks."),
    Spec(name="revoked", kind="inspect", help="Show the revoked tasks it has seen."),
    Spec(name="stats", kind="inspect", help="Show counts, processes and memory."),
    Spec(name="conf", kind="inspect", help="Show the settings, without passwords."),
    Spec(name="active_queues", kind="inspect", help="Show the queues it consumes."),
    Spec(
        name="query_task", kind="inspect", help="Show the state of tasks.", args=_IDS, variadic=True
    ),
    Spec(name="report", kind="inspect", help="Show versions and settings for a bug report."),
    Spec(
        name="revoke",
        kind="control",
        help="Prevent tasks from starting; with terminate, also stop running ones.",
        args=(Arg(name="task_id"),),
        variadic=True,
    ),
    Spec(
        name="terminate",
        kind="control",
        help="Revoke tasks and stop running ones.",
        args=(Arg(name="signal"), Arg(name="task_id")),
        variadic=True,
    ),
    Spec(
        name="rate_limit",
        kind="control",
        help="Change the rate limit of a task, such as 10/m; 0 for none.",
        args=(_TASK, Arg(name="rate_limit")),
    ),
    Spec(
        name="time_limit",
        kind="control",
        help="Change the time limits of a task, for runs that start from now on.",
        args=(
            _TASK,
            Arg(name="soft", read=seconds),
            Arg(name="hard", read=seconds, required=False),
        ),
    ),
    Spec(name="pool_grow", kind="control", help="Add processes.", args=(_COUNT,)),
    Spec(name="pool_shrink", kind="control", help="Remove processes.", args=(_COUNT,)),
    Spec(
        name="autoscale",
        kind="control",
        help="Change the bounds of autoscaling.",
        args=(Arg(name="max", read=positive), Arg(name="min", read=positive, required=False)),
    ),
    Spec(name="add_consumer", kind="control", help="Start consuming from a queue.", args=(_QUEUE,)),
    Spec(
        name="cancel_consumer", kind="control", help="Stop consuming from a queue.", args=(_QUEUE,)
    ),
    Spec(
        name="heed_pauses",
        kind="control",
        help="Read again which queues are paused; `cloudq queues pause` sends it.",
    ),
    Spec(name="shutdown", kind="control", help="Stop after the running tasks have finished."),
)


class CommandRegistry:
    """The commands of one app: the built-in ones and its own."""

    def __init__(self) -> None:
        self._specs: dict[str, Spec] = {spec.name: spec for spec in BUILTIN}

    def specs(self, kind: Kind) -> list[Spec]:
        return [spec for spec in self._specs.values() if spec.kind == kind]

    def find(self, name: str, kind: Kind | None = None) -> Spec:
        """The command of that name; one of `kind` is meant. Raises `ConfigurationError`."""
        spec = self._specs.get(name)
        if spec is None:
            known = [spec.name for spec in self.specs(kind)] if kind else [*self._specs]
            # A command of the other kind is told as such, if it is the one that is meant.
            hint = did_you_mean(name, [*known, *self._specs], otherwise="")
            raise ConfigurationError(
                f"there is no command {name!r}: {hint or 'known: ' + ', '.join(known)}"
            )
        return spec

    def add(
        self, function: Run, kind: Kind, *, name: str | None, args: Args, variadic: bool
    ) -> Run:
        """Register a function as a command. Raises `ConfigurationError`."""
        made = Spec(
            name=name or function.__name__,
            kind=kind,
            help=(inspect.getdoc(function) or "").partition("\n")[0],
            args=_args(function, args),
            variadic=variadic,
            run=function,
        )
        if made.name in self._specs:
            raise ConfigurationError(
                f"command {made.name!r} already exists: give this one another name="
            )
        self._specs[made.name] = made
        return function


Args = Sequence[tuple[str, Callable[[str], Any]]]


def _args(function: Run, given: Args) -> tuple[Arg, ...]:
    """The arguments of a function after the first, which is the state of the worker."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise ConfigurationError(
            f"command {function.__name__}: its function needs a first parameter, the worker's state"
        )
    named = [
        parameter for parameter in parameters[1:] if parameter.kind is not parameter.VAR_KEYWORD
    ]
    readers = dict(given)
    unknown = readers.keys() - {parameter.name for parameter in named}
    if unknown:
        raise ConfigurationError(
            f"command {function.__name__}: args name {', '.join(sorted(unknown))}, "
            "which its function has no parameter for"
        )
    return tuple(
        Arg(
            name=parameter.name,
            read=readers.get(parameter.name, str),
            required=parameter.default is parameter.empty,
        )
        for parameter in named
    )
