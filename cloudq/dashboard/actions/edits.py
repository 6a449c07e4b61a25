"""Reads changed arguments from a form, and puts back the secrets that it did not show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloudq.errors import ConfigurationError
from cloudq.messages.json_text import is_list, is_object
from cloudq.messages.values import from_wire
from cloudq.operations.dead_actions import Edit
from cloudq.text import masked

_HIDDEN = "***"
_LONGEST = 500_000


def edit_of(
    args: str,
    kwargs: str,
    *,
    args_before: Sequence[Any] | None = None,
    kwargs_before: Mapping[str, Any] | None = None,
    shown: tuple[Sequence[Any], Mapping[str, Any]] | None = None,
) -> Edit | None:
    """Read an edit from the JSON of a list and an object; None where both are empty.

    A value that is shown as `***` stays what it was; `shown` are the arguments before as they were
    shown, if some are secret. Raises `ConfigurationError`.
    """
    given_args: Any = _read("arguments", args, list)
    given_kwargs: Any = _read("named arguments", kwargs, dict)
    if given_args is None and not given_kwargs:
        return None
    before = list(args_before or ()), dict(kwargs_before or {})
    seen = before if shown is None else shown
    if given_args is not None:
        given_args = restored(given_args, before[0], seen[0])
    if given_kwargs:
        given_kwargs = restored(given_kwargs, before[1], seen[1])
    _refuse_hidden(given_args)
    _refuse_hidden(given_kwargs)
    named: dict[str, Any] = given_kwargs or {}
    return Edit(
        args=None if given_args is None else list(map(from_wire, given_args)),
        kwargs={name: from_wire(each) for name, each in named.items()},
    )


def changes(edit: Edit) -> str:
    """Say what an edit changes."""
    places = ["other arguments by place"] if edit.args is not None else []
    names = [f"another {name}" for name in edit.kwargs]
    return ", ".join([*places, *names])


def restored(given: Any, before: Any, shown: Any) -> Any:
    """Return what was given, with the secrets of `before` where they were `shown` hidden."""
    if given in (before, masked(shown)):
        return before
    if is_object(given) and is_object(before):
        # Whether a value is hidden depends on its name, so each is looked at with it.
        seen = shown if is_object(shown) else before
        return {name: _named(name, each, before, seen) for name, each in given.items()}
    if is_list(given) and is_list(before) and len(given) == len(before):
        seen = shown if is_list(shown) and len(shown) == len(before) else before
        return [restored(*each) for each in zip(given, before, seen, strict=True)]
    return given


def _named(name: str, given: Any, before: Mapping[str, Any], shown: Mapping[str, Any]) -> Any:
    if name not in before:
        return given
    was = before[name]
    seen = shown.get(name, was)
    return was if masked({name: seen})[name] == given else restored(given, was, seen)


def _refuse_hidden(value: Any) -> None:
    if value == _HIDDEN:
        raise ConfigurationError(
            f"the value {_HIDDEN} stands for a secret that is not known here: write the value"
        )
    inside: Iterable[Any] = ()
    if is_object(value):
        inside = value.values()
    elif is_list(value):
        inside = value
    for inner in inside:
        _refuse_hidden(inner)


def _read(what: str, text: str, kind: type[Any]) -> Any:
    if not text.strip():
        return None
    form = "[1, 2]" if kind is list else '{"x": 1}'
    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the {what} are no JSON such as {form}: {error}") from error
    if not isinstance(read, kind):
        raise ConfigurationError(f"the {what} are JSON such as {form}")
    return read
