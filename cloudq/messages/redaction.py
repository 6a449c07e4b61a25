"""Decides which arguments of a call are shown, in every place that shows any."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from typing import Any

import orjson

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.hiding import fields_of, is_items, is_mapping
from cloudq.messages.json_text import SCALARS, is_list, is_object, json_text
from cloudq.messages.message import TaskMessage
from cloudq.messages.model_classes import is_secret
from cloudq.messages.values import from_wire
from cloudq.text import HIDDEN

Named = Callable[[str], object]
"""Tells whether the settings have a name for that of a secret."""
_DEEPEST = 100
_FORMATTER = string.Formatter()
_PATH = re.compile(r"[^.\[\]]+")
_NO_SECRET = frozenset({str, int, float, bool, type(None)})
_ITEMS = frozenset({"cloudq.map", "cloudq.starmap"})
_SIGNATURES = ("chain", "group", "chord", "link", "link_error")


def named_by(patterns: Sequence[str]) -> Named | None:
    """Return what tells whether one of these patterns matches a name; None without any."""
    if not patterns:
        return None
    return re.compile("|".join(map(translate, patterns)), re.IGNORECASE).match


class Secrecy:
    """The secret parts of calls of one task.

    `names` are those of parameters, `keys` of entries in them, at any depth, and `named` tells of
    both by the patterns of the settings. `places` are the parameters that may be given by their
    place, `star` and `stars` those of all other places and names. `defaults` are secret values that
    no call need give.
    """

    def __init__(
        self,
        *,
        names: Collection[str] = (),
        keys: Collection[str] = (),
        named: Named | None = None,
        places: Sequence[str] = (),
        star: str = "",
        stars: str = "",
        defaults: Sequence[object] = (),
    ) -> None:
        self._names = frozenset(names)
        self._keys = frozenset(keys)
        self._named = named
        self._places = places
        self._star = star
        self._stars = stars
        self._defaults = defaults

    def hides(self, name: str) -> bool:
        """Tell whether the parameter of this name is secret as a whole."""
        return name in self._names or (self._named is not None and bool(self._named(name)))

    def shown(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        part: bool = False,
        first: int = 0,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments, plain or as on the wire, with `***` for what is secret in them.

        `args` begin at the place `first`. Those that are a `part` may have more before them.
        """
        hidden = [self._hides_place(first + place, part) for place in range(len(args))]
        pairs = zip(args, hidden, strict=True)
        shown = [HIDDEN if is_secret else self._inside(value) for value, is_secret in pairs]
        return shown, {
            name: HIDDEN if self._hides_key(name) else self._inside(value)
            for name, value in kwargs.items()
        }

    def has_secret(self, path: Sequence[str], value: Any) -> bool:
        """Tell whether a value, found by these names from a parameter on, is or has a secret."""
        first, *inside = path
        if self.hides(first) or any(map(self._hides_entry, inside)):
            return True
        return self._inside(value) is not value

    def secrets(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, first: int = 0
    ) -> Iterator[Any]:
        """Yield the secret values in arguments, and those of defaults."""
        yield from self._defaults
        for place, value in enumerate(args, first):
            yield from self._found(value, self._hides_place(place, False))
        for name, value in kwargs.items():
            yield from self._found(value, self._hides_key(name))

    def _hides_place(self, place: int, part: bool) -> bool:
        if part and any(map(self.hides, self._places[place:])):
            return True
        name = self._places[place] if place < len(self._places) else self._star
        return self.hides(name) or (part and bool(self._star) and self.hides(self._star))

    def _hides_key(self, name: str) -> bool:
        if self.hides(name):
            return True
        return bool(self._stars) and name not in self._places and self.hides(self._stars)

    def _is_key(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return name in self._keys or (self._named is not None and bool(self._named(name)))

    def _inside(self, value: Any, depth: int = 0) -> Any:
        """Return a value with `***` for what is secret in it; the value itself if nothing is."""
        if _is_scalar(value):
            return value
        if depth > _DEEPEST or is_secret(value):
            return HIDDEN
        parts = _parts(value)
        if parts is None:
            return value
        pairs, made = parts
        shown: list[tuple[Any, Any]] = []
        is_same = True
        for name, inner in pairs:
            found = HIDDEN if self._hides_entry(name) else self._inside(inner, depth + 1)
            is_same = is_same and found is inner
            shown.append((name, found))
        return value if is_same else made(shown)

    def _found(self, value: Any, is_secret_itself: bool, depth: int = 0) -> Iterator[Any]:
        if is_secret_itself or is_secret(value):
            yield value
        elif _is_scalar(value):
            return
        elif depth <= _DEEPEST and (parts := _parts(value)) is not None:
            for name, inner in parts[0]:
                yield from self._found(inner, self._hides_entry(name), depth + 1)

    def _hides_entry(self, name: object) -> bool:
        return name == "$secret" or self._is_key(name)


PLAIN = Secrecy()
"""Names nothing: values that are pydantic's secrets are hidden."""
Pairs = Iterable[tuple[Any, Any]]


def _parts(value: Any) -> tuple[Pairs, Callable[[list[tuple[Any, Any]]], Any]] | None:
    """Return the entries of a value, and what makes one like it of others; None of a single one."""
    if is_mapping(value):
        if len(value) == 1 and is_list(pairs := value.get("$dict")):  # as on the wire
            read = [pair for pair in pairs if is_list(pair) and len(pair) == 2]
            return [(_key(pair[0]), pair[1]) for pair in read], dict
        return value.items(), dict
    if is_items(value):
        items: Pairs = [(None, item) for item in value]
        return items, lambda pairs: [item for _, item in pairs]
    fields = fields_of(value)
    return None if fields is None else (fields.items(), dict)


def _is_scalar(value: object) -> bool:
    return type(value) in SCALARS


def _key(wire: Any) -> Any:
    return wire if isinstance(wire, str | int) else repr(wire)


class _OfItems(Secrecy):
    """The secret parts of calls that run another task on many items."""

    def __init__(self, redaction: Redaction, *, star: bool) -> None:
        super().__init__()
        self._redaction, self._is_star = redaction, star

    def shown(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        part: bool = False,
        first: int = 0,
    ) -> tuple[list[Any], dict[str, Any]]:
        secrecy, task, items = self._call(args, kwargs)
        shown = [secrecy.shown(self._args(item), {})[0] for item in items]
        return [task, shown if self._is_star else [each[0] for each in shown]], {}

    def secrets(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, first: int = 0
    ) -> Iterator[Any]:
        secrecy, _, items = self._call(args, kwargs)
        for item in items:
            yield from secrecy.secrets(self._args(item), {})

    def _args(self, item: Any) -> Sequence[Any]:
        return [*item] if self._is_star and is_items(item) else [item]

    def _call(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Secrecy, Any, Sequence[Any]]:
        given: list[Any] = [*args, *(kwargs[n] for n in ("task", "items") if n in kwargs)]
        task, items = [*given, None, None][:2]
        secrecy = self._redaction.of(task) if isinstance(task, str) else None
        return secrecy or PLAIN, task, [*items] if is_items(items) else []


class Redaction:
    """The rules of one app for what is shown of its calls. Safe to use from many threads.

    `patterns` are those of the setting `redact`, `tasks` the tasks of the app by name.
    """

    def __init__(self, patterns: Sequence[str], tasks: Mapping[str, Any]) -> None:
        self.patterns = patterns
        self._tasks = tasks
        self._named = named_by(patterns)
        others = None if self._named is None else Secrecy(named=self._named)
        self._others = others
        self.known: dict[str, Secrecy | None] = {
            name: _OfItems(self, star=name == "cloudq.starmap") for name in _ITEMS
        }

    def of(self, task: str) -> Secrecy | None:
        """Return what is secret in the calls of a task; None where nothing is named so."""
        try:
            return self.known[task]
        except KeyError:
            pass
        known: Any = self._tasks.get(task)
        if known is None:
            return self._others
        made: Secrecy | None = known.secrecy(self._named)
        self.known[task] = made
        return made

    def shown(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, part: bool = False
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call of a task with `***` for what is secret in them."""
        return (self.of(task) or PLAIN).shown(args, kwargs, part=part)

    def secrets(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the secret values in the arguments of a call."""
        return (self.of(task) or PLAIN).secrets(args, kwargs)

    def has_secret(self, task: str, template: str, named: Mapping[str, Any]) -> bool:
        """Tell whether a template of a key would be filled with what is secret in a call."""
        secrecy = self.of(task) or PLAIN
        if secrecy is PLAIN and all(type(value) in _NO_SECRET for value in named.values()):
            return False
        fields = [field for _, field, _, _ in _FORMATTER.parse(template) if field]
        return any(
            secrecy.has_secret(_PATH.findall(field), _FORMATTER.get_field(field, (), named)[0])
            for field in fields
        )

    def arguments(self, message: TaskMessage) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments in a message with `***` for what is secret in them."""
        secrecy = self.of(message.task) or PLAIN
        return secrecy.shown(message.args, message.kwargs, first=_first(message))

    def secrets_in(self, message: TaskMessage) -> Iterator[Any]:
        """Yield the secret values in a message, as they are on the wire."""
        secrecy = self.of(message.task) or PLAIN
        return secrecy.secrets(message.args, message.kwargs, first=_first(message))

    def message(self, message: TaskMessage) -> TaskMessage:
        """Return a message with `***` for what is secret in it, and in the calls that follow."""
        args, kwargs = self.arguments(message)
        changed: dict[str, Any] = {"args": args, "kwargs": kwargs}
        for name in ("chain", "link", "link_error"):
            if nodes := getattr(message, name):
                changed[name] = [self._node(node, 0) for node in nodes]
        return message.model_copy(update=changed)

    def body(self, text: str) -> str:
        """Return the text of a body that cannot be read, without the secrets that can be told."""
        try:
            fields: object = orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
        shown = self._node(fields, 0) if is_object(fields) else fields
        if shown == fields:
            return text
        try:
            return json_text(shown).decode()
        except EncodeError:  # it nests deeper than can be written, though it was read
            return HIDDEN

    def _node(self, node: Any, depth: int) -> Any:
        if not is_object(node) or depth > _DEEPEST:
            return node if isinstance(node, str) else HIDDEN
        made = {**node}
        for name in _SIGNATURES:
            if is_list(parts := node.get(name)):
                made[name] = [self._node(each, depth + 1) for each in parts]
        if "body" in node:
            made["body"] = self._node(node["body"], depth + 1)
        args, kwargs = node.get("args"), node.get("kwargs")
        if isinstance(task := node.get("task"), str) and (args or kwargs):
            given = args if is_list(args) else (), kwargs if is_object(kwargs) else {}
            shown = self.shown(task, *given, part=not node.get("immutable"))
            made |= {k: v for k, v in zip(("args", "kwargs"), shown, strict=True) if k in node}
        return made


def _first(message: TaskMessage) -> int:
    """Return the place of the first argument: that of a chord's body follows the values."""
    return int(message.gather is not None)


def plain(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values of the wire, and what each of them is where it is read."""
    for value in values:
        yield value
        try:
            yield from_wire(value)
        except DecodeError:
            continue
