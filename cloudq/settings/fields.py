"""Declares settings, and takes values that are plainly right; pydantic judges the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from enum import StrEnum
from typing import Any, TypeGuard

from cloudq.amounts import CENTURY

MOST = 10**15
"""The largest count that a setting may be."""

# Digits of a number that pydantic and `float` read alike.
_DIGITS = 9
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Setting:
    """The default of a setting, its meaning, and its bounds, under pydantic's names.

    `choices` are the only texts that it, or each item of a list, may be. Where it is `checked`,
    pydantic's model has a check of its own for any other value than the default. `annotation` is
    the type hint, as it is written.
    """

    def __init__(
        self,
        *,
        default: Any,
        description: str,
        min_length: int | None = None,
        ge: float | None = None,
        gt: float | None = None,
        le: float | None = None,
        pattern: str | None = None,
        choices: type[StrEnum] | tuple[str, ...] | None = None,
        checked: bool = False,
    ) -> None:
        self.default, self.description = default, description
        self.min_length, self.ge, self.gt, self.le = min_length, ge, gt, le
        self.pattern, self.choices, self.checked = pattern, choices, checked
        self.annotation = ""

    @property
    def rules(self) -> dict[str, Any]:
        """The bounds that are set, and the pattern."""
        named = {name: getattr(self, name) for name in ("min_length", "ge", "gt", "le", "pattern")}
        return {name: rule for name, rule in named.items() if rule is not None}

    @property
    def kind(self) -> str:
        """The type of the value, without its parameters, and without None."""
        return self.annotation.removesuffix(" | None").partition("[")[0]

    def fresh(self) -> Any:
        """Return the default; a list or a table is one that nobody shares."""
        return copy(self.default)


def setting(**given: Any) -> Any:
    """Declare a setting as the attribute of a class, by fields of `Setting`."""
    return Setting(**given)


def settings_of(declared: type[Any]) -> dict[str, Setting]:
    """Return the settings that a class declares, in their order."""
    hints: Mapping[str, str] = declared.__annotations__
    found = {name: each for name, each in vars(declared).items() if isinstance(each, Setting)}
    for name, each in found.items():
        each.annotation = hints[name]
    return found


class _Unsure(Exception):
    """Raised for a value that only pydantic can judge."""


def plain(fields: Mapping[str, Setting], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return values as pydantic would take them; None where one may be wrong, or made another."""
    try:
        return {name: _taken(fields[name], value) for name, value in values.items()}
    except (_Unsure, KeyError):
        return None


def _taken(field: Setting, value: Any) -> Any:
    if value is None and (field.annotation == "Any" or field.annotation.endswith("| None")):
        return value
    if type(value) is type(field.default) and value == field.default:
        return copy(value)
    take = _TAKE.get(field.kind)
    if take is None or field.checked:
        raise _Unsure
    return take(field, value)


def _text(field: Setting, value: Any) -> str:
    if type(value) is not str or len(value) < (field.min_length or 0):
        raise _Unsure
    if field.pattern is not None and not re.fullmatch(field.pattern, value):
        raise _Unsure
    return value


def _choice(field: Setting, value: Any) -> Any:
    choices = field.choices or ()
    if isinstance(choices, tuple):
        if _text(field, value) not in choices:
            raise _Unsure
        return value
    try:
        return value if type(value) is choices else choices(_text(field, value))
    except ValueError as error:
        raise _Unsure from error


def _texts(field: Setting, value: Any) -> list[str]:
    if not _is_list(value):
        raise _Unsure
    take = _text if field.choices is None else _choice
    return [take(field, each) for each in value]


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def _switch(_: Setting, value: Any) -> bool:
    found = value if type(value) is bool else _WORDS.get(value) if type(value) is str else None
    if found is None:
        raise _Unsure
    return found


def _count(field: Setting, value: Any) -> int:
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        value = int(value)
    if type(value) is not int or not (0 <= value <= MOST and _fits(field, value)):
        raise _Unsure
    return value


def _seconds(field: Setting, value: Any) -> float:
    if type(value) is str and value.isascii() and len(value) <= _DIGITS:
        whole, dot, rest = value.partition(".")
        if whole.isdigit() and (rest.isdigit() or not dot):
            value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Unsure
    if not (0 <= value <= CENTURY and _fits(field, value)):
        raise _Unsure
    return float(value)


def _fits(field: Setting, value: float) -> bool:
    return (
        (field.ge is None or value >= field.ge)
        and (field.gt is None or value > field.gt)
        and (field.le is None or value <= field.le)
    )


def _any(_: Setting, value: Any) -> Any:
    return value


_TAKE: Mapping[str, Callable[[Setting, Any], Any]] = {
    "str": _text,
    "Serializer": _choice,
    "Compression": _choice,
    "Level": _choice,
    "list": _texts,
    "bool": _switch,
    "int": _count,
    "float": _seconds,
    "Any": _any,
}
