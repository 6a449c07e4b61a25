"""Makes mutants of recipes: bytes, tokens, fields and whole parts, in each of their layers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cloudq.messages.message import DEFAULTS
from tests.fuzz.bodies import HOSTILE
from tests.fuzz.recipes import Recipe, bombs

_SMALL = [each for each in HOSTILE if len(json.dumps(each, default=str)) < 400]
_LARGE = [each for each in HOSTILE if len(json.dumps(each, default=str)) >= 400]
_TAGS = (
    *("$datetime", "$date", "$time", "$timedelta", "$decimal", "$uuid", "$bytes", "$int", "$float"),
    *("$set", "$frozenset", "$tuple", "$dict", "$blob", "$file", "$pickle", "$unknown"),
    *("__type__", "__value__"),
)
_NAMES = (
    *DEFAULTS,
    *("v", "n", "all", "calls", "app", "until", "type", "zip", "with", "wrapped", "body", "key"),
    *("sig", "headers", "properties", "content-type", "options", "chain", "group", "chord", "more"),
    *("at", "callbacks", "errbacks", "state", "value", "error", "error_type", "error_args"),
    *("children", "follows", "ends", "ids", "count", "added", "parts", "p0", "f0", "revoked"),
    *("Records", "detail", "message", "messageId", "data", "schedule", "size", "sha256", "as"),
)
_NUMBERS = (
    *(0, 1, -1, 7, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**19, 10**100, 1e308, -1e308, 1e-308, 0.1),
    *(float("inf"), float("-inf"), float("nan"), -0.0, 1763700000.125, 253402300800.0),
)
_TEXTS = (
    *("", " ", "0", "-1", "1e999", "nan", "null", "\x00", "\ud800", "\udfff\ud800", "\u2028", "²"),
    *("\u202e", "x" * 256, "é" * 200, "a/b", "..", "../x", "$x", "@", "7@join", "sealed:4:e1:"),
    *("sealed:4:!no", "sealed:4:e1:AAAA:AAAA", "fuzz", "echo", "default", "json", "pickle"),
    *(
        "messages/2026-11-30/" + "0" * 32,
        "0" * 64,
        "%s%n",
        "{0.__class__}",
        "\x1b]0;x\x07",
        "\ufeff",
    ),
    *("2026-02-30", "2026-11-30T25:00:00", "9999-12-31T23:59:59.999999-23:59", "1_000", "0x10"),
)
# What no tree can have, or another than Python's writer writes.
_PIECES = (
    *(b"NaN", b"-Infinity", b"1e99999", b"-0", b"1e-99999", b"0.1e1", b"1" * 25, b"9" * 5000),
    *(b"-" + b"9" * 4301, b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff"', b"tru", b""),
    *(b"[" * 300 + b"]" * 300, b"[" * 5000 + b"]" * 5000, b'{"a":' * 260 + b"1" + b"}" * 260),
    *(b"[" * 100_000, b'{"a":1,"a":2}', b'{"a":1,"a":{"$int":"1"}}', b"\xef\xbb\xbf1", b"/**/1"),
    *(b'{"$int":"' + b"9" * 4400 + b'"}', b'"\xed\xa0\x80"', b"1.", b".5", b"0x10", b"'a'", b"1,"),
)
# The signs of the other notations, of compressed frames, and of what envelopes begin with.
_TOKENS = (
    *(b'{"v":1,', b'{"v":2,', b'{"v":3,', b'{"v":4,', b'{"v":99,', b'"sig":"', b'"body":"', b'"}'),
    *(
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\x7f\xff\xff\xff",
    ),
    *(
        b"\xc1",
        b"\xc7\x00\xff",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xcf" + b"\xff" * 8,
        b"\xd3\x80" + b"\x00" * 7,
    ),
    *(
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\x81\x81\xc0\xc0\xc0",
        b"\x91" * 600,
        b"\x81\xa1a" * 300,
    ),
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"!!python/object:os.system ", b"!!timestamp ", b"!!set "),
    *(
        b"1:2:3",
        b"? ",
        b"- ",
        b"\n",
        b"---\n",
        b"...",
        b"%YAML 9\n",
        b"!!float .nan",
        b"2026-11-30",
    ),
    *(
        b"0o7",
        b"0b1",
        b"1_0",
        b"'",
        b"|\n ",
        b">\n ",
        b"!!binary ",
        b"[" * 200,
        b"\t",
        b"!<x> ",
        b"~",
    ),
    *(
        b"\x78\x9c",
        b"BZh9",
        b"\x28\xb5\x2f\xfd",
        b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8,
        b"\x00",
        b"\xff",
    ),
    *(
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\\",
        b'"',
        b",",
    ),
)
_VALUE = re.compile(rb'(?<=[:,\[])(?:"(?:[^"\\]|\\.){0,80}"|-?\d+(?:\.\d+)?|null|true|false)')
_DIGITS = re.compile(rb"\d+")
_LONGEST = 1 << 20


class Mutator:
    """Makes mutants, the same for the same seed. `limit` is what a body may open to."""

    def __init__(self, seed: int, *, limit: int) -> None:
        self._random = random.Random(seed)
        self._limit = limit

    def _below(self, end: int) -> int:
        return int(self._random.random() * end)

    def _choice(self, among: Sequence[Any]) -> Any:
        return among[int(self._random.random() * len(among))]  # in a third of the library's time

    def mutant(self, parent: Recipe, other: Recipe, *, wrapped: bool = False) -> Recipe:
        """Change a recipe, in one layer or in some; parts of another may come into it.

        One that is `wrapped` stays JSON.
        """
        made = parent
        for _ in range(1 if self._random.random() < 0.7 else 3):
            layer = self._layer(made)
            if wrapped and layer not in (self._inner, self._fields):
                layer = self._tree if made.kind == "bare" else self._fields
            made = layer(made, other)
        return made

    def _layer(self, recipe: Recipe) -> Callable[[Recipe, Recipe], Recipe]:
        pick = self._random.random()
        if recipe.whole is not None or pick < 0.1:
            return self._whole
        if recipe.kind == "event":
            return self._inner if recipe.inner is not None and pick < 0.5 else self._fields
        if recipe.squeezed is not None or (recipe.zip is not None and pick < 0.25):
            return self._squeezed
        if recipe.fields is not None and pick < 0.45:
            return self._fields
        if pick < 0.5:
            return self._form
        return self._data if recipe.data is not None or pick > 0.85 else self._tree

    # ---- layers

    def _tree(self, recipe: Recipe, other: Recipe) -> Recipe:
        tree = recipe.tree
        if self._random.random() < 0.1 and other.tree is not None:
            tree = self._spliced(tree, other.tree)
        for _ in range(self._choice((1, 1, 1, 2, 4))):
            tree = self.changed(tree)
        return replace(recipe, tree=tree)

    def _data(self, recipe: Recipe, other: Recipe) -> Recipe:
        data = recipe.content()
        if recipe.notation == "json" and self._random.random() < 0.6:
            return replace(recipe, data=self._with_piece(data))
        return replace(recipe, data=self.spoilt(data, other.content() if other.tree else b""))

    def _squeezed(self, recipe: Recipe, other: Recipe) -> Recipe:
        if self._random.random() < 0.1:
            name, data = self._choice(bombs(self._limit))
            fields = None if recipe.fields is None else {**recipe.fields, "zip": name}
            return replace(recipe, squeezed=data, zip=name, fields=fields)
        return replace(recipe, squeezed=self.spoilt(recipe.packed(), b""))

    def _fields(self, recipe: Recipe, other: Recipe) -> Recipe:
        fields: Any = recipe.fields or {}
        if other.fields and self._random.random() < 0.1:
            fields = self._spliced(fields, other.fields)
        fields = self.changed(fields)
        return replace(recipe, fields=fields if isinstance(fields, dict) else {"v": fields})

    def _inner(self, recipe: Recipe, other: Recipe) -> Recipe:
        assert recipe.inner is not None
        return replace(recipe, inner=self.mutant(recipe.inner, other.inner or recipe.inner))

    def _form(self, recipe: Recipe, other: Recipe) -> Recipe:
        """Put what is in one form into another, or name a form that it has not."""
        choice = self._choice
        if recipe.fields is None or recipe.kind == "celery":
            return replace(recipe, data=self._with_piece(recipe.content()))
        if self._random.random() < 0.5:
            kinds = ("enveloped", "signed", "encrypted", "both")
            return replace(recipe, kind=choice(kinds))
        notation = choice(("json", "json", "msgpack", "msgpack", "yaml"))  # which takes long
        zipped = choice((None, None, "zlib", "zstd", "zlib", "zstd", "bz2"))  # which takes its time
        fields = {key: each for key, each in recipe.fields.items() if key not in ("type", "zip")}
        if self._random.random() < 0.9:
            fields |= {} if notation == "json" else {"type": notation}
            fields |= {} if zipped is None else {"zip": zipped}
        return replace(recipe, notation=notation, zip=zipped, fields=fields, data=None)

    def _whole(self, recipe: Recipe, other: Recipe) -> Recipe:
        return Recipe(whole=self.spoilt(recipe.body(), other.body()))

    # ---- trees

    def changed(self, node: Any) -> Any:
        """Copy a tree with one change, sharing what is not changed."""
        pick = self._random.random()
        if isinstance(node, dict) and node:
            if pick > 0.25:
                key = self._choice(list(node))
                return {**node, key: self.changed(node[key])}
            return self._other_keys(node)
        if isinstance(node, list) and node:
            place = self._below(len(node))
            if pick > 0.25:
                return [*node[:place], self.changed(node[place]), *node[place + 1 :]]
            return self._other_items(node, place)
        return self._value(node)

    def _other_keys(self, node: dict[str, Any]) -> Any:
        choice, pick = self._choice, self._random.random()
        key = choice(list(node))
        if pick < 0.25:
            return {name: each for name, each in node.items() if name != key}
        if pick < 0.4:
            return {**node, choice(_NAMES): node[key]}
        if pick < 0.7:
            return {**node, choice(_NAMES): self._value(None)}
        if pick < 0.8:
            return {(choice(_TEXTS) if name == key else name): each for name, each in node.items()}
        if pick < 0.9:
            return {choice(_TAGS): node[key]}
        return self._value(node)

    def _other_items(self, node: list[Any], place: int) -> Any:
        pick = self._random.random()
        if pick < 0.2:
            return [*node[:place], *node[place + 1 :]]
        if pick < 0.4:
            return [*node, node[place]]
        if pick < 0.45:
            return [*node, *([node[place]] * self._choice((3, 30, 600)))]
        if pick < 0.75:
            return [*node[:place], self._value(None), *node[place:]]
        if pick < 0.85:
            return node[::-1]
        return self._value(node)

    def _value(self, node: Any) -> Any:
        """Make a value in place of another: of its type, of another, or around it."""
        choice, pick = self._choice, self._random.random()
        if pick < 0.25:
            return choice(_SMALL)
        if pick < 0.255:
            return choice(_LARGE)
        if pick < 0.3:
            return {choice(_TAGS): choice((node, choice(_TEXTS), choice(_NUMBERS), []))}
        if pick < 0.35:
            return choice(
                ([node], {"a": node}, [node, node], {"task": node}, {"$dict": [[node, 1]]})
            )
        if isinstance(node, bool) or node is None or pick < 0.5:
            return choice((choice(_NUMBERS), choice(_TEXTS), None, True, [], {}))
        if isinstance(node, int | float):
            is_long = isinstance(node, int) and node.bit_length() > 10_000  # Python writes none
            text = "9" * 5000 if is_long else str(node)[:5000]
            return choice((node + 1, -node, node * 10, text, -node * 3, choice(_NUMBERS)))
        if isinstance(node, str):
            return self._text(node)
        return choice(_SMALL)

    def _text(self, text: str) -> str:
        choice, pick = self._choice, self._random.random()
        place = self._below(len(text) + 1)
        if pick < 0.3:
            return text[:place] + choice(_TEXTS) + text[place:]
        if pick < 0.5:
            return text[:place]
        if pick < 0.6:
            return text[:place] + chr(self._below(0x300)) + text[place + 1 :]
        if pick < 0.65:
            return (text * 50)[:5000]
        if pick < 0.75:
            return text.upper()
        return choice(_TEXTS)

    def _spliced(self, one: Any, other: Any) -> Any:
        """Put a part of one tree into another."""
        part = other
        while isinstance(part, dict | list) and part and self._random.random() < 0.7:
            part = self._choice(list(part.values()) if isinstance(part, dict) else part)
        return self._placed(one, part)

    def _placed(self, node: Any, part: Any) -> Any:
        if isinstance(node, dict) and node and self._random.random() < 0.8:
            key = self._choice(list(node))
            return {**node, key: self._placed(node[key], part)}
        if isinstance(node, list) and node and self._random.random() < 0.8:
            place = self._below(len(node))
            return [*node[:place], self._placed(node[place], part), *node[place + 1 :]]
        return part

    # ---- bytes

    def _with_piece(self, data: bytes) -> bytes:
        """Put a piece of JSON in place of a value, or name a key twice."""
        found = [match.span() for match in _VALUE.finditer(data[:5000])]
        piece = self._choice(_PIECES)
        if not found:
            return piece
        start, end = self._choice(found)
        if self._random.random() < 0.2:
            opening = data.find(b"{")
            name = self._choice(_NAMES).encode()
            return b'%b"%b":%b,%b' % (data[: opening + 1], name, piece, data[opening + 1 :])
        return data[:start] + piece + data[end:]

    def spoilt(self, data: bytes, other: bytes) -> bytes:
        """Change some bytes."""
        made = bytearray(data)
        for _ in range(self._choice((1, 1, 2, 3, 8))):
            self._spoil(made, other)
        return bytes(made[:_LONGEST])

    def _spoil(self, made: bytearray, other: bytes) -> None:
        length = len(made)
        at = self._below(length + 1)
        end = min(length, at + self._choice((1, 2, 4, 9, 40)))
        match self._below(11):
            case 0 | 1 if at < length:
                made[at] ^= 1 << self._below(8)
            case 2 if at < length:
                made[at] = self._below(256)
            case 3:
                del made[at:end]
            case 4 | 5:
                made[at:at] = self._choice(_TOKENS)
            case 6:
                made[at:end] = self._choice(_TOKENS)
            case 7:
                made[at:at] = made[at:end] * self._choice((1, 2, 9, 500))
            case 8:
                del made[at:]
            case 9 if other:
                start = self._below(len(other))
                made[at:] = other[start:]
            case _:
                self._spoil_number(made)

    def _spoil_number(self, made: bytearray) -> None:
        found: Sequence[re.Match[bytes]] = list(_DIGITS.finditer(bytes(made[:3000])))
        if found:
            match = self._choice(found)
            number = self._choice(_NUMBERS)
            made[match.start() : match.end()] = str(number).encode()
