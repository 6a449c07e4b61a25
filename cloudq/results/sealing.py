"""Encrypts what the store keeps of tasks, and opens it again: each text for its place alone.

States, times, names and ids stay readable, since the store compares and lists by them. Encrypted
are values, errors and tracebacks, metadata, details of events, checkpoints, replies of workers, and
calls that are stored to be sent later. Of those no plain one is believed where messages must be
encrypted, as in a queue.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from cloudq.driver import Change, ConditionFailed, Item, Key, Page, Value
from cloudq.errors import DecodeError
from cloudq.messages.encryption import Encryption
from cloudq.messages.json_text import flat_json_text, is_list, is_object
from cloudq.messages.sealed_text import because, is_sealed, key_of, marker

_OF_RECORDS = frozenset({"value", "error", "error_args", "error_state", "traceback", "meta"})
_FIELDS: Mapping[str, frozenset[str]] = {
    "task": _OF_RECORDS,
    "events": frozenset({"error", "args"}),
    "once": frozenset({"value"}),
    "step": frozenset({"value"}),
    "state": frozenset({"value"}),
    "join": frozenset({"follows"}),
    "steps": frozenset({"steps"}),
    "beat": frozenset({"entry"}),
    "reply": frozenset({"reply"}),
    "django": frozenset({"given"}),
}
"""The encrypted fields, by what the partition begins with."""
_CALLS = frozenset({"follows", "steps", "entry"})
_PARTS = frozenset({"bundle", "series"})
"""The partitions whose items have records in fields p..., see `cloudq.results.bundle_item`."""
_HIDDEN = "sealed"
_NONE: frozenset[str] = frozenset()
_MOST_BYTES = 64 * 1024 * 1024
_UNENCRYPTED = "not encrypted: this app sends only what one of its encryption_keys has encrypted"


class Sealing:
    """Seals and opens items for one app. Safe to use from many threads.

    Stored calls are believed if one of `apps` has sealed them. Every method raises
    `KeyServiceError`.
    """

    def __init__(self, encryption: Encryption, app: str, apps: Collection[str]) -> None:
        self._encryption = encryption
        self._app = app
        self._apps = apps

    # ---- on the way in

    def items(self, items: Sequence[Item]) -> list[Item]:
        """Seal whole items."""
        return [replace(each, fields=self._sealed(each.key, each.fields)) for each in items]

    def change(self, key: Key, change: Change) -> Change:
        """Seal what a change sets."""
        return replace(change, set=self._sealed(key, change.set)) if change.set else change

    def _sealed(self, key: Key, fields: Mapping[str, Value]) -> Mapping[str, Value]:
        kind = key.partition.partition("#")[0]
        if kind in _PARTS:
            return {
                name: self._sealed_part(key, name, value) if _is_part(name, value) else value
                for name, value in fields.items()
            }
        names = _FIELDS.get(kind, _NONE)
        if names.isdisjoint(fields):
            return fields
        return {
            name: self._encryption.seal_text(self._app, _place(key, name), value)
            if name in names and isinstance(value, str)
            else value
            for name, value in fields.items()
        }

    def _sealed_part(self, key: Key, name: str, part: Any) -> bytes:
        plain: Any = orjson.loads(zlib.decompress(part))
        hidden: dict[str, dict[str, Value]] = {}
        stands = marker(self._encryption.seals)
        for number, fields in plain["calls"]:
            taken = _OF_RECORDS & fields.keys() if fields else _NONE
            if taken:
                hidden[str(number)] = {field: fields[field] for field in taken}
                fields |= dict.fromkeys(taken, stands)
        if not hidden:
            return part
        small = zlib.compress(flat_json_text(hidden), 1)
        plain[_HIDDEN] = self._encryption.seal_bytes(self._app, _place(key, name), small)
        return zlib.compress(flat_json_text(plain), 1)

    # ---- on the way out

    def opened(self, item: Item) -> Item:
        """Open an item; what cannot be opened says why in its place."""
        kind = item.key.partition.partition("#")[0]
        names = _FIELDS.get(kind, _NONE)
        fields = item.fields
        if kind in _PARTS:
            changed: dict[str, Value] = {
                name: self._opened_part(item.key, name, value)
                for name, value in fields.items()
                if _is_part(name, value)
            }
        else:
            changed = {
                name: self._opened(item.key, name, text)
                for name in names
                if isinstance(text := fields.get(name), str)
                and (is_sealed(text) or (name in _CALLS and self._encryption.required))
            }
        return replace(item, fields={**fields, **changed}) if changed else item

    def updated(self, key: Key, change: Change, update: Callable[[Key, Change], Item]) -> Item:
        """Make a change of an item. Raises `ConditionFailed` too, with the item opened."""
        try:
            return self.opened(update(key, self.change(key, change)))
        except ConditionFailed as error:
            raise ConditionFailed(error.current and self.opened(error.current)) from error

    def page(self, page: Page) -> Page:
        """Open the items of a page."""
        return replace(page, items=[self.opened(item) for item in page.items])

    def used(self, item: Item) -> Iterator[tuple[str, str | None]]:
        """Yield the id of the key of each sealed text in an item, and why it cannot be opened."""
        kind = item.key.partition.partition("#")[0]
        for name, value in item.fields.items():
            text: object = value
            if kind in _PARTS and _is_part(name, value):
                text = _hidden_in(value)
            elif name not in _FIELDS.get(kind, _NONE):
                continue
            if not isinstance(text, str) or not is_sealed(text):
                continue
            problem = None
            try:
                self._encryption.open_bytes(text, _place(item.key, name))
            except DecodeError as error:
                problem = str(error)
            yield key_of(text), problem

    def _opened(self, key: Key, name: str, text: str) -> str:
        if not is_sealed(text):
            return because(_UNENCRYPTED)
        apps = self._apps if name in _CALLS else None
        try:
            return self._encryption.open_text(text, _place(key, name), apps)
        except DecodeError as error:
            return because(str(error))

    def _opened_part(self, key: Key, name: str, part: Any) -> bytes:
        try:
            plain: Any = orjson.loads(zlib.decompressobj().decompress(part, _MOST_BYTES))
        except (zlib.error, ValueError):  # its reader passes it over
            return part
        if not is_object(plain) or not is_list(plain.get("calls")) or _HIDDEN not in plain:
            return part
        rows: list[tuple[str, dict[str, Any]]] = [
            (str(row[0]), row[1])
            for row in plain["calls"]
            if is_list(row) and len(row) == 2 and is_object(row[1])
        ]
        try:
            text = plain.pop(_HIDDEN)
            small = self._encryption.open_bytes(str(text), _place(key, name))
            found: Any = orjson.loads(zlib.decompressobj().decompress(small, _MOST_BYTES))
            hidden: dict[str, Any] = found if is_object(found) else {}
        except (DecodeError, zlib.error, ValueError) as error:
            why = because(str(error))
            for _, fields in rows:
                fields |= dict.fromkeys(_OF_RECORDS & fields.keys(), why)
        else:
            for number, fields in rows:
                fields |= hidden.get(number, {})
        return zlib.compress(flat_json_text(plain), 1)


def _hidden_in(part: Any) -> object:
    try:
        plain: Any = orjson.loads(zlib.decompressobj().decompress(part, _MOST_BYTES))
    except (zlib.error, ValueError):
        return None
    return plain.get(_HIDDEN) if is_object(plain) else None


def _is_part(name: str, value: Value) -> bool:
    return name[:1] == "p" and isinstance(value, bytes)


def _place(key: Key, name: str) -> str:
    # No two places have one text, whatever is in the names of steps, say.
    return f"{len(key.partition)} {len(key.sort)} {key.partition} {key.sort} {name}"
