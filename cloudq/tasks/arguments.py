"""Checks a task's arguments against its function's signature and type hints."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from cloudq.errors import ConfigurationError, DecodeError, EncodeError, InvalidArguments
from cloudq.messages.canonical import canonical

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Arguments:
    """Checks values against the parameters and the return type of one function.

    Every call must fit the signature. Parameters whose hints carry pydantic models, dataclasses,
    typed dicts, enums or annotations are validated by pydantic; with `everything`, all are.
    """

    def __init__(
        self, name: str, function: Callable[..., object], *, bound: bool, everything: bool
    ) -> None:
        self.name = name
        self._function = function
        self._everything = everything
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1 if bound else 0 :]
        self._signature = signature.replace(parameters=parameters)
        plain = [p for p in parameters if p.kind in _POSITIONAL]
        self._most = len(plain) if len(plain) == len(parameters) else -1
        self._least = sum(p.default is p.empty for p in plain)

    def check(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the validated arguments. `InvalidArguments` names the wrong one, and why."""
        if kwargs or not self._least <= len(args) <= self._most:
            self.fit(args, kwargs)
        if not self._adapters:
            return args, kwargs
        bound = self._signature.bind(*args, **kwargs)
        for name, adapter in self._adapters.items():
            if name in bound.arguments:
                bound.arguments[name] = self._validated(name, adapter, bound.arguments[name])
        return bound.args, bound.kwargs

    def takes(self, count: int) -> bool:
        """Say if the function takes at least `count` positional arguments."""
        parameters = self._signature.parameters.values()
        plain = sum(parameter.kind in _POSITIONAL for parameter in parameters)
        return plain >= count or any(p.kind is p.VAR_POSITIONAL for p in parameters)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call by name, defaults included."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found = dict(bound.arguments)
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                found |= found.pop(parameter.name, {})
        return found

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key that equal calls share, from all arguments by name, defaults included.

        Raises `EncodeError` for an argument that cannot be sent.
        """
        given = self._signature.bind(*args, **kwargs).arguments
        texts = {**self.default_texts, **{name: canonical(item) for name, item in given.items()}}
        lines = "\n".join(f"{name}={texts[name]}" for name in sorted(texts))
        return hashlib.sha256(lines.encode()).hexdigest()

    @cached_property
    def default_texts(self) -> Mapping[str, str]:
        """The canonical text of each default; without those that no call can send, say `object()`.

        Read it when the task is made: a function may change a default that is a list.
        """
        empty: Mapping[Any, object] = {
            inspect.Parameter.VAR_POSITIONAL: (),
            inspect.Parameter.VAR_KEYWORD: {},
        }
        texts: dict[str, str] = {}
        for name, parameter in self._signature.parameters.items():
            default = empty.get(parameter.kind, parameter.default)
            if default is not parameter.empty:
                with suppress(EncodeError):
                    texts[name] = canonical(default)
        return texts

    @property
    def parameters(self) -> tuple[list[str], bool]:
        """The parameters' names, and True if the function also takes any other keyword."""
        parameters = self._signature.parameters.values()
        plain = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        return plain, len(plain) < len(parameters)

    def restore(self, value: Any) -> Any:
        """Convert a stored result to the function's return type, if its hint carries a model."""
        if self._returned is None:
            return value
        try:
            return self._returned.validate_python(value)
        except ValidationError as error:
            raise DecodeError(
                f"the result of {self.name} does not fit its type: {error}"
            ) from error

    def fit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `InvalidArguments` if the arguments do not fit the signature."""
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self.name}{self._signature}: {error}") from error

    def _validated(self, name: str, adapter: TypeAdapter[Any], value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join([name, *map(str, first["loc"])])
            raise InvalidArguments(f"{self.name}: {place}: {first['msg']}") from error

    # Hints are read at the first call: a forward reference may not be defined before.
    @cached_property
    def _hints(self) -> Mapping[str, Any]:
        try:
            return get_type_hints(self._function, include_extras=True)
        except NameError:  # names imported for type checkers only
            return {}

    @cached_property
    def _adapters(self) -> Mapping[str, TypeAdapter[Any]]:
        return {
            name: self._adapter(name, self._hints[name])
            for name, parameter in self._signature.parameters.items()
            if name in self._hints
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and (self._everything or carries_model(self._hints[name]))
        }

    @cached_property
    def _returned(self) -> TypeAdapter[Any] | None:
        hint = self._hints.get("return")
        return self._adapter("return", hint) if carries_model(hint) else None

    def _adapter(self, name: str, hint: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(hint)
        except PydanticUserError as error:
            raise ConfigurationError(
                f"{self.name}: pydantic cannot check the type hint of {name!r}: {error.message}"
            ) from error


def carries_model(hint: object) -> bool:
    """Say if a type hint contains a model, dataclass, typed dict, enum or annotation."""
    if isinstance(hint, type) and not get_args(hint):
        kind = cast("type[object]", hint)
        return issubclass(kind, BaseModel | Enum) or is_dataclass(kind) or _is_checkable(kind)
    if get_origin(hint) is Annotated:
        return True
    return any(carries_model(part) for part in get_args(hint))


def _is_checkable(kind: type[object]) -> bool:
    # Pydantic can read typing.TypedDict from Python 3.12 on; before, the value stays a dict.
    return is_typeddict(kind) and sys.version_info >= (3, 12)
