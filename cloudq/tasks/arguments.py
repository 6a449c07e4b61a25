"""Checks a task's arguments against its function's signature and type hints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, get_type_hints

from cloudq.driver.forks import imported
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError, EncodeError, InvalidArguments, did_you_mean
from cloudq.messages.canonical import canonical, canonical_text
from cloudq.messages.redaction import Named, Secrecy
from cloudq.messages.values import dump_value, from_wire, to_wire
from cloudq.runtime import Runtime
from cloudq.tasks.hints import (
    carries_model,
    hints_of,
    of_each,
    of_result,
    signature_of,
    unpacked,
)

if TYPE_CHECKING:  # loaded for tasks with models in their hints
    from pydantic import TypeAdapter

log = Log("cloudq.app")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
# A function of any keywords can be called in more forms than are worth remembering.
_MOST_FORMS = 64
# Hints of which each value comes back, so that none is tried.
_SURE = (str, int, float, bool, bytes, type(None))


class Later:
    """Stands for an argument that is not known yet: the value of the task before."""


LATER = Later()

Validate = Callable[[str, "TypeAdapter[Any]", Any], Any]


class Arguments:
    """Checks values against the parameters and the return type of one function.

    Every call must fit the signature. Parameters whose hints carry pydantic models, dataclasses,
    named tuples, typed dicts, enums or annotations are validated by pydantic; with `everything`,
    all are.
    """

    def __init__(
        self, name: str, function: Callable[..., object], *, bound: bool, everything: bool
    ) -> None:
        self.name = name
        self.runtime: Runtime | None = None  # of the app that has its task
        self._function = function
        self._everything = everything
        signature = signature_of(function)
        parameters = list(signature.parameters.values())
        if bound:
            parameters = _without_self(name, function, parameters)
        self._signature = signature.replace(parameters=parameters)
        plain = [p for p in parameters if p.kind in _POSITIONAL]
        self._most = len(plain) if len(plain) == len(parameters) else -1
        self._least = sum(p.default is p.empty for p in plain)
        self._fitting: set[tuple[int, *tuple[str, ...]]] = set()  # forms of calls that fit
        self._is_bare = False  # it is known that no hint asks for a check

    def check(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the validated arguments. `InvalidArguments` names the wrong one, and why.

        `LATER` stands for one that is not known yet.
        """
        return self._checked(self._validated, args, kwargs)

    def sendable(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Do as `check`, and raise `EncodeError` for a value that would not come back as it is."""
        if self._is_bare:
            if kwargs:
                fits = (len(args), *kwargs) in self._fitting
            else:
                fits = self._least <= len(args) <= self._most
            if fits:
                return args, kwargs
        return self._checked(self._tried, args, kwargs)

    def read(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return arguments that were read from a message, whole. Raises as `check`."""
        return self._checked(self._restored, args, kwargs)

    def secrecy(self, declared: frozenset[str], named: Named | None) -> Secrecy | None:
        """Return what is secret in calls, by the names declared, hints, and names of settings."""
        made: Secrecy | None = _secrecy().secrecy_of(self._signature, self._hints, declared, named)
        return made

    def prepare(self) -> bool:
        """Load pydantic if a call or its result may need it, so that a fork need not; say if so."""
        try:
            hints = get_type_hints(self._function, include_extras=True)
            if not (self._everything or any(map(carries_model, hints.values()))):
                return False
        except Exception:  # of a name that is not there; the first call tells of it
            log.debug("the hints of %s are looked at when it is called", self.name)
        _validation()
        return True

    def takes(self, count: int) -> bool:
        """Say if the function takes at least `count` positional arguments."""
        parameters = self._signature.parameters.values()
        plain = sum(parameter.kind in _POSITIONAL for parameter in parameters)
        return plain >= count or any(p.kind is p.VAR_POSITIONAL for p in parameters)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call by name, defaults included."""
        bound = self._signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        bound.apply_defaults()
        found = bound.arguments | {
            name: value for name, value in self._read_defaults.items() if name not in given
        }
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                found = found[parameter.name] | found  # a parameter's name stands above a keyword
        return found

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key that equal calls share, from all arguments by name, defaults included.

        Raises `EncodeError` for an argument that cannot be sent.
        """
        import hashlib  # loads OpenSSL, which few processes need

        given = self._signature.bind(*args, **kwargs).arguments
        texts = {**self._default_texts, **{name: canonical(item) for name, item in given.items()}}
        lines = "\n".join(f"{name}={texts[name]}" for name in sorted(texts))
        return hashlib.sha256(lines.encode()).hexdigest()

    @cached_property
    def sent_defaults(self) -> Mapping[str, Any]:
        """Each default as it would be sent; without those that no call can send, say `object()`.

        Read it when the task is made: a function may change a default that is a list.
        """
        empty: Mapping[Any, object] = {
            inspect.Parameter.VAR_POSITIONAL: (),
            inspect.Parameter.VAR_KEYWORD: {},
        }
        sent: dict[str, Any] = {}
        for name, parameter in self._signature.parameters.items():
            default = empty.get(parameter.kind, parameter.default)
            if default is not parameter.empty:
                with suppress(Exception):  # a lazy object may raise whatever it likes
                    sent[name] = to_wire(default)
        return sent

    @cached_property
    def _read_defaults(self) -> Mapping[str, Any]:
        """The defaults that a hint asks to be validated, as they would be if they were given.

        One that its hint does not take stays as it is.
        """
        found: dict[str, Any] = {}
        for name, adapter in self._adapters.items():
            if name in self.sent_defaults and name not in (self._star, self._stars):
                with suppress(Exception):  # of a validator of the user's own, say
                    found[name] = self._restored(name, adapter, from_wire(self.sent_defaults[name]))
        return found

    @cached_property
    def _default_texts(self) -> Mapping[str, str]:
        texts: dict[str, str] = {}
        for name, sent in self.sent_defaults.items():
            try:
                texts[name] = canonical(self._read_defaults[name])
            except (KeyError, EncodeError):
                texts[name] = canonical_text(sent)
        return texts

    @property
    def parameters(self) -> tuple[list[str], bool]:
        """The parameters' names, and True if the function also takes any other keyword."""
        parameters = self._signature.parameters.values()
        plain = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        return plain, len(plain) < len(parameters)

    @property
    def places(self) -> Sequence[str]:
        """The names of the parameters that may be given by their place, in order."""
        return [p.name for p in self._signature.parameters.values() if p.kind in _POSITIONAL]

    def restore(self, value: Any) -> Any:
        """Convert a stored result to the function's return type, if its hint carries a model."""
        if self._returned is None:
            return value
        return _validation().restored_result(self.name, self._returned, value)

    def written_result(self, value: Any) -> str:
        """Write a result as JSON text. Raises `EncodeError` for one that would not come back."""
        if self._returned is None:
            return dump_value(value)
        return _validation().written_result(self.name, self._returned, value)

    def restore_each(self, values: Any) -> Any:
        """Convert the stored results of calls that ran as one: each as `restore` does."""
        if self._returned is None:
            return values
        return _validation().restored_results(self.name, self._returned, values)

    def written_results(self, values: Any) -> str:
        """Write the results of calls that ran as one. Raises as `written_result` of each."""
        if self._returned is None:
            return dump_value(values)
        return _validation().written_results(self.name, self._returned, values)

    def results(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments | EachResult:
        """Return what writes and restores the result of a call with these arguments."""
        return self

    def fit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `InvalidArguments` if the arguments do not fit the signature."""
        form = (len(args), *kwargs)
        if form in self._fitting:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            # Python tells of the first fault alone, and of a missing one before an unknown one.
            said = self._unknown(kwargs) or str(error)
            shown = _secrecy().shown_signature(self.runtime, self.name, self._signature)
            raise InvalidArguments(f"{self.name}{shown}: {said}") from error
        if len(self._fitting) < _MOST_FORMS:
            self._fitting.add(form)

    def _unknown(self, kwargs: Mapping[str, Any]) -> str:
        names, is_open = self.parameters
        unknown = [name for name in kwargs if name not in names]
        if is_open or not unknown:
            return ""
        hint = did_you_mean(unknown[0], names)
        return f"there is no parameter {unknown[0]!r}{': ' if hint else ''}{hint}"

    def _checked(
        self, validate: Validate, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        try:
            return self._each(validate, args, kwargs)
        except (InvalidArguments, EncodeError) as error:
            told = _secrecy().told(self.runtime, self.name, error, args, kwargs)
            if told is error:
                raise
        raise told  # and not from one of pydantic's, which quotes values

    def _each(
        self, validate: Validate, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Apply a check to each argument whose hint asks for one."""
        if kwargs or not self._least <= len(args) <= self._most:
            self.fit(args, kwargs)
        if not self._adapters:
            self._is_bare = True
            return args, kwargs
        bound = self._signature.bind(*args, **kwargs)
        given = bound.arguments
        for name, adapter in self._adapters.items():
            if name not in given:
                continue
            if name in self._together:
                if not _has_later(given[name]):
                    given[name] = validate(name, adapter, given[name])
            elif name == self._star:
                items = enumerate(given[name])
                given[name] = tuple(validate(f"{name}.{n}", adapter, item) for n, item in items)
            elif name == self._stars:
                items = given[name].items()
                given[name] = {key: validate(key, adapter, item) for key, item in items}
            else:
                given[name] = validate(name, adapter, given[name])
        return bound.args, bound.kwargs

    def _validated(self, name: str, adapter: TypeAdapter[Any], value: Any) -> Any:
        if value is LATER:
            return value
        return _validation().validated(self.name, name, adapter, value)

    def _restored(self, name: str, adapter: TypeAdapter[Any], value: Any) -> Any:
        return _validation().restored(self.name, name, adapter, value)

    def _tried(self, name: str, adapter: TypeAdapter[Any], value: Any) -> Any:
        """Validate a value, and try whether the receiver reads it as it is."""
        value = self._validated(name, adapter, value)
        if value is LATER or (adapter in self._sure and type(value) in _SURE):
            return value
        _validation().check_comes_back(self.name, name, adapter, value)
        return value

    # Hints are read at the first call: a forward reference may not be defined before.
    @cached_property
    def _hints(self) -> Mapping[str, Any]:
        return hints_of(self.name, self._function)

    @cached_property
    def _star(self) -> str:
        return self._of_kind(inspect.Parameter.VAR_POSITIONAL)

    @cached_property
    def _stars(self) -> str:
        return self._of_kind(inspect.Parameter.VAR_KEYWORD)

    @cached_property
    def _together(self) -> Sequence[str]:
        """The names of `*args` and `**kwargs` whose hint is of them together, and not of each."""
        return [name for name in (self._star, self._stars) if unpacked(self._hints.get(name))]

    def _of_kind(self, kind: object) -> str:
        return next((p.name for p in self._signature.parameters.values() if p.kind is kind), "")

    @cached_property
    def _adapters(self) -> Mapping[str, TypeAdapter[Any]]:
        made: dict[str, TypeAdapter[Any]] = {}
        for name, parameter in self._signature.parameters.items():
            hint = self._hints.get(name, inspect.Parameter.empty)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                hint = of_each(hint)
            if hint is not inspect.Parameter.empty and (self._everything or carries_model(hint)):
                made[name] = self._adapter(name, hint)
        return made

    @cached_property
    def _sure(self) -> Sequence[TypeAdapter[Any]]:
        """The adapters of plain hints, which change nothing that they read."""
        return [made for name, made in self._adapters.items() if self._hints[name] in _SURE]

    @cached_property
    def _returned(self) -> TypeAdapter[Any] | None:
        hint = of_result(self._hints.get("return"))
        return self._adapter("return", hint) if carries_model(hint) else None

    def _adapter(self, name: str, hint: Any) -> TypeAdapter[Any]:
        return _validation().adapter(self.name, name, hint)


class EachResult:
    """Writes and restores the result of a call that runs a task on many items."""

    def __init__(self, of: Arguments) -> None:
        self._of = of

    def restore(self, values: Any) -> Any:
        """Convert each value to the return type of the task."""
        return self._of.restore_each(values)

    def written_result(self, value: Any) -> str:
        """Write the values as JSON text. Raises `EncodeError` for one that would not come back."""
        return self._of.written_results(value)


@cache
def _validation() -> Any:
    return imported("cloudq.tasks.validation")


@cache
def _secrecy() -> Any:
    return imported("cloudq.tasks.secrecy")


def _without_self(
    name: str, function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> list[inspect.Parameter]:
    """Return a bound function's parameters without the one that takes the task.

    Raises `ConfigurationError` if none does.
    """
    first = parameters[0] if parameters else None
    if first is not None and first.kind in _POSITIONAL:
        return parameters[1:]
    if first is not None and first.kind is first.VAR_POSITIONAL:  # the task is one of its values
        return parameters
    own = inspect.signature(function, follow_wrapped=False).parameters.values()
    if any(each.kind in (*_POSITIONAL, each.VAR_POSITIONAL) for each in own):
        return parameters  # a decorator takes the task, and does not pass it on
    raise ConfigurationError(
        f"task {name}: with bind=True its function gets the task first: write def f(self, ...), "
        "or leave bind out"
    )


def _has_later(given: Iterable[Any]) -> bool:
    return any(item is LATER for item in given)
