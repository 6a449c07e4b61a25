"""Finds the secret parameters of a task, and hides the values of a running call's."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cloudq.errors import CloudQError, ConfigurationError, did_you_mean
from cloudq.messages.hiding import Hiding
from cloudq.messages.message import TaskMessage
from cloudq.messages.model_classes import is_model_class, secret_classes
from cloudq.messages.redaction import PLAIN, Named, Redaction, Secrecy, plain
from cloudq.runtime import Runtime
from cloudq.tasks.request import Request, current_request
from cloudq.text import HIDDEN, HIDING

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MOST_HINTS = 2000


def names_of(task: str, given: Any) -> frozenset[str]:
    """Return the names that the option `secret` has. Raises `ConfigurationError`."""
    is_list = not isinstance(given, str | bytes) and hasattr(given, "__iter__")
    names: list[Any] = list(given) if is_list else [None]
    if not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"task {task}: secret is {given!r}: give the names of parameters, as ['card']"
        )
    return frozenset(names)


def check_names(
    task: str, names: Iterable[str], parameters: Sequence[str], *, is_open: bool
) -> None:
    """Check that each name is that of a parameter; one of any other keywords may have any.

    Raises `ConfigurationError`.
    """
    for name in sorted(names):
        if name not in parameters and not (is_open and name.isidentifier()):
            known = did_you_mean(name, parameters, otherwise=f"it has {', '.join(parameters)}")
            raise ConfigurationError(
                f"task {task}: secret names {name!r}, and the task has no such parameter: "
                f"{known if parameters else 'it has none'}"
            )


def secrecy_of(
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    declared: frozenset[str],
    named: Named | None,
) -> Secrecy | None:
    """Return what is secret in calls of a function; None where nothing is."""
    names, keys = set(declared), set[str]()
    secrets = secret_classes()
    parameters = signature.parameters
    for name in parameters.keys() & hints.keys() if secrets else ():
        is_whole, inside = _secrets_in(hints[name], secrets)
        keys |= inside
        if is_whole:
            names.add(name)
    if not (names or keys or named):
        return None
    kinds = {each.kind: name for name, each in parameters.items()}
    return Secrecy(
        names=names,
        keys=keys,
        named=named,
        places=[name for name, each in parameters.items() if each.kind in _BY_PLACE],
        star=kinds.get(inspect.Parameter.VAR_POSITIONAL, ""),
        stars=kinds.get(inspect.Parameter.VAR_KEYWORD, ""),
        defaults=[
            each.default
            for name, each in parameters.items()
            if name in names or (named is not None and named(name))
            if each.default is not each.empty
        ],
    )


def told(
    runtime: Runtime | None,
    task: str,
    error: CloudQError,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> CloudQError:
    """Return an error about arguments without the secrets among them; itself if there are none."""
    redaction = Redaction((), {}) if runtime is None else runtime.redaction
    secrets = [*redaction.secrets(task, args, kwargs)]
    return type(error)(Hiding(secrets).text(str(error))) if secrets else error


def shown_signature(
    runtime: Runtime | None, task: str, signature: inspect.Signature
) -> inspect.Signature:
    """Return a signature in which the defaults of secret parameters are hidden."""
    secrecy = None if runtime is None else runtime.redaction.of(task)
    if secrecy is None:
        return signature
    return signature.replace(
        parameters=[
            each.replace(default=HIDDEN)
            if each.default is not each.empty and secrecy.hides(name)
            else each
            for name, each in signature.parameters.items()
        ]
    )


def _secrets_in(hint: Any, secrets: tuple[type[Any], ...]) -> tuple[bool, set[str]]:
    """Say if a hint has a secret itself, and which fields of its models have."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(hint, ())]
    seen: set[int] = set()
    is_whole, keys = False, set[str]()
    while waiting and len(seen) < _MOST_HINTS:
        part, field = waiting.pop()
        if id(part) in seen and not (isinstance(part, type) and issubclass(part, secrets)):
            continue
        seen.add(id(part))
        kind = get_origin(part) or part
        if isinstance(kind, type) and issubclass(kind, secrets):
            keys.update(field)
            is_whole = is_whole or not field
            continue
        if isinstance(kind, type):
            waiting += _fields(kind, field)
        inside = get_args(part)[:1] if get_origin(part) is Annotated else get_args(part)
        named = getattr(part, "__value__", None) or getattr(part, "__supertype__", None)
        waiting += [(each, field) for each in (*inside, named) if each is not None]
    return is_whole, keys


def _fields(kind: type[Any], field: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the hints of the fields of a class, with the names that they have in messages.

    What has no name there, as the fields of a named tuple, counts as the `field` around it.
    """
    if is_model_class(kind):
        for name, each in kind.model_fields.items():
            is_root = getattr(kind, "__pydantic_root_model__", False)
            yield each.annotation, field if is_root else (name, *_aliases(each))
    elif dataclasses.is_dataclass(kind):
        known: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", {})
        for name, hint in _hints_of(kind):
            yield hint, (name, *_aliases(known.get(name)))
    elif hasattr(kind, "__required_keys__"):
        for name, hint in _hints_of(kind):
            yield hint, (name,)
    elif hasattr(kind, "_make"):  # of a named tuple
        for _, hint in _hints_of(kind):
            yield hint, field


def _hints_of(kind: type[Any]) -> Iterable[tuple[str, Any]]:
    try:
        return get_type_hints(kind, include_extras=True).items()
    except Exception:  # of a name that is not there
        return ()


def _aliases(field: Any) -> Iterator[str]:
    """Yield the other names of a field of pydantic's."""
    for alias in (getattr(field, "alias", None), getattr(field, "validation_alias", None)):
        for each in getattr(alias, "choices", None) or [alias]:
            names: Any = [each] if isinstance(each, str) else getattr(each, "path", ())
            # Of a path in nested values the last name is that of the value itself.
            yield from [name for name in names if isinstance(name, str)][-1:]


class CallSecrets:
    """Hides the secret values of one call in texts. What they are is found when one is shown."""

    def __init__(self, redaction: Redaction, message: TaskMessage) -> None:
        self._redaction = redaction
        self._message = message
        self._hiding: Hiding | None = None
        self._is_read = False  # its values as the function has them are among them

    def __call__(self, text: str) -> str:
        """Return a text without the values."""
        return self.hiding.text(text)

    @property
    def hiding(self) -> Hiding:
        """The values to hide, so far as they are known."""
        request = current_request.get()
        is_read = request is not None and request.id == self._message.id
        if self._hiding is None or is_read > self._is_read:
            message, task = self._message, self._message.task
            values = [*plain(self._redaction.secrets_in(message))]
            if request is not None and is_read:
                values += self._redaction.secrets(task, request.args, request.kwargs)
            self._hiding, self._is_read = Hiding(values), is_read
        return self._hiding


def hide_secrets(runtime: Runtime, message: TaskMessage) -> None:
    """Hide the secrets of a call, in this context, where its task has names for some."""
    redaction = runtime.redaction
    if redaction.of(message.task) is not None:
        HIDING.set(CallSecrets(redaction, message))


@contextmanager
def hiding_values(runtime: Runtime, message: TaskMessage) -> Generator[None]:
    """Hide the secrets of a call in the block, also those without a name."""
    token = HIDING.set(HIDING.get() or CallSecrets(runtime.redaction, message))
    try:
        yield
    finally:
        HIDING.reset(token)


def request_hiding(request: Request) -> Callable[[str], str]:
    """Return what hides the secrets without a name in the arguments of a call."""
    return Hiding([*PLAIN.secrets(request.args, request.kwargs)]).text


def hidden_value(value: Any) -> Any:
    """Return a value without the secrets of the call that runs in this context."""
    hide = HIDING.get()
    return hide.hiding.value(value) if isinstance(hide, CallSecrets) else value


@contextmanager
def hiding(hide: Callable[[str], str] | None) -> Generator[None]:
    """Hide the secrets of a call that has ended, in the block."""
    token = HIDING.set(hide)
    try:
        yield
    finally:
        HIDING.reset(token)
