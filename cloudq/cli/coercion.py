"""Reads options without pydantic, whose loading takes 70 ms, and says in plain words what is wrong.

Options in seconds also take times as people write them: 90s, 10m, 2h, 3d.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from cloudq.amounts import span

_DIGITS = 9
_LONGEST = 40
_UNSURE: Any = object()


def spare_pydantic(option: Any) -> None:
    """Have an option read so; where typer has changed, it goes on as it does."""
    if hasattr(option, "get_runtime_param") and hasattr(option, "type_descriptor"):
        option.get_runtime_param = _Reader(option).itself


class _Reader:
    """Reads an option's value; typer does for a value that is not plainly right."""

    def __init__(self, option: Any) -> None:
        self._kind = option.type_descriptor.annotation
        self._rules = option.type_descriptor.parameter_info
        self._is_file = option.type_descriptor.file_annotation is not None
        self._typers = option.get_runtime_param
        # Lists of numbers are told by typer.
        self._is_number = self._kind in (int, float) and not self._rules.clamp
        self._is_span = "SECONDS" in (option.metavar or "")

    def itself(self) -> _Reader:
        """Return this, as the method of typer's options does that it stands for."""
        return self

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        """Return the value of the option, or of each of its words. Raises as typer."""
        made = _UNSURE if self._is_file else self._taken(value, param.multiple or param.nargs == -1)
        if made is _UNSURE and self._is_number and type(value) is str:
            try:
                return _said_number(self._kind, self._rules, value, spans=self._is_span)
            except ValueError as error:
                raise typer.BadParameter(str(error), ctx=ctx, param=param) from error
        if made is _UNSURE:
            return self._typers().coerce(value, param=param, ctx=ctx)
        return made

    def _taken(self, value: Any, many: bool) -> Any:
        if value is None:
            return () if many else None
        if self._rules.parser is not None:
            return _UNSURE
        if get_origin(self._kind) is not list:
            return _UNSURE if many else _one(self._kind, self._rules, value)
        if type(value) not in (tuple, list):
            return _UNSURE
        made = [_one(get_args(self._kind)[0], self._rules, each) for each in value]
        return _UNSURE if any(each is _UNSURE for each in made) else made


def _one(kind: Any, rules: Any, value: Any) -> Any:
    if kind is str:
        return value if type(value) is str else _UNSURE
    if kind is bool:
        return value if type(value) is bool else _UNSURE
    if kind is int or kind is float:
        return _number(kind, rules, value)
    if kind is Path:
        return _path(rules, value)
    if isinstance(kind, type) and issubclass(kind, Enum) and rules.case_sensitive:
        return next((each for each in kind if value is each or value == each.value), _UNSURE)
    return _UNSURE


def _number(kind: Any, rules: Any, value: Any) -> Any:
    if type(value) is str and value.isascii() and len(value) <= _DIGITS:
        whole, dot, rest = value.partition(".")
        if whole.isdigit() and (not dot or (kind is float and rest.isdigit())):
            value = kind(value)
    if type(value) is not kind or rules.clamp:
        return _UNSURE
    is_in = (rules.min is None or value >= rules.min) and (rules.max is None or value <= rules.max)
    return value if is_in else _UNSURE


def _said_number(kind: Any, rules: Any, text: str, *, spans: bool) -> Any:
    """Read a number, or a time. Raises `ValueError`, which says what to give."""
    made = span(text) if spans else None
    if made is None:
        try:
            made = kind(text)
        except ValueError:
            what = "a time" if spans else "a whole number" if kind is int else "a number"
            example = ": give seconds, or a time such as 90s, 10m or 2h" if spans else ""
            raise ValueError(f"{_brief(text)} is not {what}{example}") from None
    is_above = rules.min is None or made >= rules.min  # which NaN is not
    if not is_above or (rules.max is not None and made > rules.max):
        least, most = rules.min or 0, rules.max
        bounds = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
        raise ValueError(f"{_brief(text)} is out of range: give {bounds}")
    return made


def _brief(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _path(rules: Any, value: Any) -> Any:
    odd = rules.exists or rules.resolve_path or rules.allow_dash or rules.path_type
    if type(value) is not str or odd or os.path.lexists(value):  # typer looks at the file
        return _UNSURE
    return Path(value)
