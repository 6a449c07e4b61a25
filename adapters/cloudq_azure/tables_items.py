"""Between items of cloudq and the entities of Azure Table storage, exactly.

A field `state` is the property `f_state`, typed as its value: Edm.String, Int64, Double, Boolean
or Binary. What Tables cannot hold has a letter of its own before the name:

    t_   a long text, as UTF-8 in Edm.Binary (a string takes two bytes a character, 64 KiB at most)
    s_   a set, as a JSON list
    n_   a number beyond 64 bits, or -0.0, as Python writes it
    z_   None: true

What is over a property's 64 KiB goes on in `p1_f_state`, `p2_f_state` and so on. Names of
properties are identifiers, so that any other character of a field's name is written as `_x002e_`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, cast

from azure.data.tables import EdmType, EntityProperty

from cloudq.driver import Item, Key, Value
from cloudq.driver.log import Log
from cloudq_azure.answers import reading
from cloudq_azure.tables_keys import partition_key, row_key

log = Log("cloudq.backend")

PARTITION, ROW, EXPIRES = "PartitionKey", "RowKey", "expires"
# An entity's properties, without the three that are Tables' own.
MOST_PROPERTIES = 252

Entity = dict[str, Any]

_PROPERTY = 64 * 1024
_STRING = _PROPERTY // 2  # characters, if none of them takes two units of UTF-16
_NAME = re.compile(r"(?:p(?P<part>\d+)_)?(?P<kind>[ftsnz])_(?P<field>.*)")
_OTHER = re.compile(r"[^A-Za-z0-9_]|_(?=x)")
_ESCAPED = re.compile(r"_x([0-9a-f]{4,6})_")
# 31 December 9999, the end of Tables' time.
_LAST = 253_402_300_799.0


def entity_key(key: Key) -> Entity:
    """The two keys of an item's entity."""
    return {PARTITION: partition_key(key.partition), ROW: row_key(key.sort)}


def to_entity(item: Item) -> Entity:
    """A whole item; an empty set is an absent field."""
    entity = entity_key(item.key)
    if item.expires is not None:
        entity[EXPIRES] = datetime.fromtimestamp(max(0.0, min(item.expires, _LAST)), UTC)
    for field, value in item.fields.items():
        if value == frozenset():
            continue
        kind, stored = _to_stored(value)
        name = f"{kind}_{_OTHER.sub(lambda found: f'_x{ord(found[0]):04x}_', field)}"
        for number, part in enumerate(_parts(stored)):
            entity[f"p{number}_{name}" if number else name] = part
    return entity


def from_entity(key: Key, entity: Mapping[str, Any]) -> Item:
    """An item as Tables answers it. Raises `AzureError` for an entity with parts of other types."""
    with reading("a property's value"):
        return _item(key, entity)


def _item(key: Key, entity: Mapping[str, Any]) -> Item:
    parts: dict[tuple[str, str], dict[int, Any]] = {}
    for name, value in entity.items():
        if found := _NAME.fullmatch(name):
            place = (found["kind"], found["field"])
            parts.setdefault(place, {})[int(found["part"] or 0)] = value
    fields: dict[str, Value] = {}
    for (kind, name), numbered in parts.items():
        values = [value for _, value in sorted(numbered.items(), key=itemgetter(0))]
        if any(value is None or isinstance(value, list | dict) for value in values):
            raise TypeError(f"the property {name!r} is none that Tables has")
        try:
            field = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)
            fields[field] = _from_stored(kind, values)
        except (TypeError, ValueError, AttributeError) as error:  # another program wrote it
            log.warning("property %r of an entity is left out: %s", name, error)
    end = entity.get(EXPIRES)
    ends = end.timestamp() if isinstance(end, datetime) else None
    return Item(key=key, fields=fields, expires=ends)


def size(entity: Entity) -> int:
    """Return the bytes of an entity by the service's rules."""
    return 4 + sum(8 + 2 * len(name) + _size(value) for name, value in entity.items())


def _to_stored(value: Value) -> tuple[str, str | bytes | bool | float | EntityProperty]:
    match value:
        case None:
            return "z", True
        case bool() | bytes():
            return "f", value
        case str():
            return ("f", value) if _units(value) <= _STRING else ("t", value.encode())
        case int() if value.bit_length() < 64:
            return "f", EntityProperty(value, EdmType.INT64)
        case float() if value or math.copysign(1.0, value) > 0:
            return "f", value
        case int() | float():
            return "n", repr(value)
        case _:
            return "s", json.dumps(sorted(value), ensure_ascii=False, separators=(",", ":"))


def _from_stored(kind: str, parts: list[Any]) -> Value:
    value = parts[0]
    match kind:
        case "z":
            return None
        case "t":
            return b"".join(parts).decode()
        case "s":
            members = json.loads("".join(parts))
            if not all(isinstance(member, str) for member in members):
                raise TypeError("its members are no texts")
            return frozenset(cast("list[str]", members))
        case "n":
            text = "".join(parts)
            return int(text) if text.lstrip("-").isdigit() else float(text)
        case _ if isinstance(value, EntityProperty):
            return cast("int", value.value)
        case _ if isinstance(value, bytes):
            return b"".join(parts)
        case _ if isinstance(value, str | bool | int | float):
            return value
        case _:
            raise TypeError(f"a property that is a {type(value).__name__}")


def _parts(value: str | bytes | bool | float | EntityProperty) -> Iterator[Any]:
    # A character beyond the first 65,536 takes two units; half as many always fit.
    if isinstance(value, str) and _units(value) > _STRING:
        step = _STRING // 2
    elif isinstance(value, bytes) and len(value) > _PROPERTY:
        step = _PROPERTY
    else:
        yield value
        return
    yield from (value[start : start + step] for start in range(0, len(value), step))


def _units(text: str) -> int:
    # Only text that may be over the limit is worth counting exactly.
    return len(text) if len(text) <= _STRING // 2 else len(text.encode("utf-16-le")) // 2


def _size(value: object) -> int:
    match value:
        case str():
            return 4 + len(value.encode("utf-16-le"))
        case bytes():
            return 4 + len(value)
        case bool():
            return 1
        case _:
            return 8
