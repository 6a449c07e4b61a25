"""Reads the arguments of a call from the words of a command line, by the hints of its task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import Parameter
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import orjson

from cloudq.app import CloudQ
from cloudq.errors import InvalidArguments, did_you_mean
from cloudq.messages.redaction import PLAIN
from cloudq.messages.values import is_list, is_object
from cloudq.tasks.hints import hints_of, signature_of
from cloudq.text import HIDDEN

_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
# What each plain hint takes of what JSON has; of other hints, the worker's check decides.
_TAKEN: dict[object, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
    list: (list,),
    dict: (dict,),
    NoneType: (NoneType,),
}


def read_words(app: CloudQ, task: str, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Read words as the arguments of a task: each JSON, or else a text; NAME=VALUE by name.

    A word has no type of its own, so the hint of its parameter decides: `5` is a text where the
    hint is `str`. Raises `InvalidArguments` for one that cannot be what its hint says.
    """
    if task not in app.tasks:
        return [loose(word) for word in words], {}
    function = app.tasks[task]
    parameters = list(signature_of(function.function).parameters.values())[function.bind :]
    hints = hints_of(task, function.function)
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    star = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    secrecy = app.runtime.redaction.of(task) or PLAIN
    is_secret = secrecy.hides
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        found = _NAMED.fullmatch(word.lstrip())
        if found is not None and found[1] in named:
            hint = hints.get(found[1], Any)
            kwargs[found[1]] = _heeding(task, found[1], hint, found[2], is_secret(found[1]))
            continue
        name = plain[len(args)] if len(args) < len(plain) else star
        hint = hints.get(name, Any)
        if found is not None and not (name and _may_be_text(hint)):
            raise InvalidArguments(_unnamed(task, found[1], named, parameters))
        args.append(_heeding(task, name, hint, word, is_secret(name)))
    return args, kwargs


def loose(word: str) -> Any:
    """Read one word: JSON, or else a text."""
    try:
        return orjson.loads(word)
    except orjson.JSONDecodeError:
        return word


def json_list(option: str, text: str) -> list[Any]:
    """Read a JSON list. Raises `InvalidArguments`."""
    value = _parsed(option, text)
    if not is_list(value):
        raise InvalidArguments(f"{option} must be a JSON list such as '[1, \"a\"]'")
    return value


def json_object(option: str, text: str | None) -> dict[str, Any]:
    """Read a JSON object; an empty one for None. Raises `InvalidArguments`."""
    if text is None:
        return {}
    value = _parsed(option, text)
    if not is_object(value):
        raise InvalidArguments(f"{option} must be a JSON object such as '{{\"a\": 1}}'")
    return value


def _parsed(option: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArguments(f"{option} is not JSON: {error}") from error


def _heeding(task: str, name: str, hint: Any, word: str, is_secret: bool) -> Any:
    value = loose(word)
    kinds = _kinds(hint)
    if any(_takes(kind, value) for kind in kinds):
        return value
    if str in kinds:
        return word.strip() if word.strip() != word and _is_json(word) else word
    wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
    shown = HIDDEN if is_secret else f"{word.strip()!r:.60}"
    raise InvalidArguments(
        f"{task}: {name} is {shown}, and its type is {wanted} (--args takes a JSON list as it is)"
    )


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the plain types of a hint, of a union each of its own."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _kinds(get_args(hint)[0])
    if origin in (Union, UnionType):
        return tuple(kind for each in get_args(hint) for kind in _kinds(each))
    return (hint if origin is None else origin,)


def _takes(kind: Any, value: Any) -> bool:
    taken = _TAKEN.get(kind) if isinstance(kind, type) else None
    if taken is None:
        return True
    return isinstance(value, taken) and (not isinstance(value, bool) or bool in taken)


def _unnamed(task: str, name: str, named: list[str], parameters: list[Parameter]) -> str:
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return f"{task} has no parameter {name!r} of its own: give it in --kwargs"
    listed = f"it has {', '.join(named)}" if named else "it has none that goes by its name"
    return f"{task} has no parameter {name!r}: {did_you_mean(name, named, otherwise=listed)}"


def _may_be_text(hint: Any) -> bool:
    return any(_takes(kind, "") for kind in _kinds(hint))


def _is_json(word: str) -> bool:
    return loose(word) is not word
