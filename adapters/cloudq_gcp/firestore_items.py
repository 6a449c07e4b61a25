"""Converts items of cloudq to Firestore's documents and back, without any loss.

A document's id is `5f:task#0199...|-`: a hash of the partition, the partition, and the sort key.
Firestore sorts ids by their UTF-8 bytes, so that a partition is a range of ids in the order of
its sort keys, which a query reads without any index. The hash comes first because Firestore keeps
neighbours on one machine, and ids of tasks grow with the time: without it all new records of a
busy application would be written to the same place.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from google.cloud.firestore_v1.types import ArrayValue, Document, MapValue
from google.cloud.firestore_v1.types import Value as Stored
from google.protobuf.struct_pb2 import NULL_VALUE

from cloudq.driver import Item, Key, Value, fitting
from cloudq.driver.log import Log
from cloudq_gcp.errors import incomplete

log = Log("cloudq.backend")

EXPIRES, FIELDS = "expires", "fields"
# The longest id, in bytes.
LONGEST_ID = 1500
# Of a partition in it, so that there is room for sort keys.
_LONGEST_PARTITION = 1400

_SEPARATOR, _BEHIND = "|", "}"  # the character behind the separator ends the partition's range
_PARTITION = str.maketrans({"%": "%25", "/": "%2F", _SEPARATOR: "%7C"})
# An id has no slash. "." and "/" are neighbours, so that this keeps every order.
_SORT = str.maketrans({".": ".0", "/": ".1"})
_KIND = re.compile(r"[^A-Za-z]")
_ESCAPED = re.compile(r"\.[01]")
_UNESCAPED = {".0": ".", ".1": "/"}
_MARK = "field:"
# 31 December 9999, the end of Firestore's time.
_LAST = 253_402_300_799.0


def partition_ids(partition: str) -> tuple[str, str]:
    """The range of ids that a partition's items have: from the first to before the second."""
    partition = fitting(partition, _fits)
    hashed = zlib.crc32(partition.encode()) & 0xFF
    start = f"{hashed:02x}:{partition.translate(_PARTITION)}"
    return start + _SEPARATOR, start + _BEHIND


def _fits(partition: str) -> bool:
    return len(partition.translate(_PARTITION).encode()) <= _LONGEST_PARTITION


def document_id(key: Key) -> str:
    """Return the id of an item's document."""
    return partition_ids(key.partition)[0] + key.sort.translate(_SORT)


def sort_key(name: str) -> str:
    """The sort key in a document's name."""
    id = name.rpartition("/")[2]
    return _ESCAPED.sub(lambda found: _UNESCAPED[found[0]], id.partition(_SEPARATOR)[2])


def kind_of(name: str) -> str:
    """The kind of item that a document is, of the partition in its name."""
    return _KIND.split(name.rpartition("/")[2].partition(":")[2], maxsplit=1)[0]


def to_document(name: str, item: Item) -> Document:
    """A whole item; an empty set is an absent field."""
    fields = {
        _field_name(field): _to_value(value)
        for field, value in item.fields.items()
        if value != frozenset()
    }
    stored = {FIELDS: Stored(map_value=MapValue(fields=fields))}
    if item.expires is not None:
        end = datetime.fromtimestamp(max(0.0, min(item.expires, _LAST)), UTC)
        stored[EXPIRES] = Stored(timestamp_value=end)
    return Document(name=name, fields=stored)


def from_document(key: Key, document: Document) -> Item:
    """An item as Firestore answers it."""
    # The plain messages: the SDK's wrappers of them cost ten times as much to read.
    stored = cast("Mapping[str, Any]", cast("Any", Document).pb(document).fields)
    fields: dict[str, Value] = {}
    for name, value in stored[FIELDS].map_value.fields.items() if FIELDS in stored else ():
        try:
            fields[name.removeprefix(_MARK)] = _from_value(value)
        except (TypeError, ValueError) as error:  # another program wrote it
            log.warning("field %r of a document is left out: %s", name, error)
    expires: float | None = None
    if EXPIRES in stored and stored[EXPIRES].WhichOneof("value_type") == "timestamp_value":
        end = stored[EXPIRES].timestamp_value
        expires = end.seconds + end.nanos / 1e9
    return Item(key=key, fields=fields, expires=expires)


def size(name: str, item: Item) -> int:
    """Return the bytes of the item by Firestore's rules, rather too many than too few."""
    fields = sum(
        len(field.encode()) + 1 + _size(value) + _OVERHEAD for field, value in item.fields.items()
    )
    return len(name.encode()) + fields + 2 * _DOCUMENT


# A nested value's, and a document's with its name and the names of our own two fields.
_OVERHEAD = 8
_DOCUMENT = 32


def _field_name(field: str) -> str:
    # Firestore keeps names that begin so for itself, and has none that is empty.
    return _MARK + field if not field or field.startswith(("__", _MARK)) else field


def _to_value(value: Value) -> Stored:
    match value:
        case bool():
            return Stored(boolean_value=value)
        case None:
            return Stored(null_value=NULL_VALUE)
        case str():
            return Stored(string_value=value)
        case bytes():
            return Stored(bytes_value=value)
        case float():
            return Stored(double_value=value)
        case int() if value.bit_length() < 64:
            return Stored(integer_value=value)
        case int():
            # Firestore has no larger integer; it comes back exactly, but sorts as a text would.
            return Stored(map_value=MapValue(fields={"int": Stored(string_value=str(value))}))
        case _:
            members = [Stored(string_value=member) for member in sorted(value)]
            return Stored(array_value=ArrayValue(values=members))


def _from_value(value: Any) -> Value:
    kind = cast("str | None", value.WhichOneof("value_type"))
    match kind:
        case None:
            raise incomplete("the value of a field")
        case "null_value":
            return None
        case "array_value":
            members = value.array_value.values
            if any(member.WhichOneof("value_type") != "string_value" for member in members):
                raise TypeError("its members are no texts")
            return frozenset(member.string_value for member in members)
        case "map_value":
            return int(value.map_value.fields["int"].string_value)
        case "boolean_value" | "string_value" | "bytes_value" | "double_value" | "integer_value":
            return cast("Value", getattr(value, kind))
        case _:
            raise TypeError(f"a value of the type {kind}")


def _size(value: Value) -> int:
    match value:
        case str():
            return len(value.encode()) + 1
        case bytes():
            return len(value)
        case frozenset():
            return sum(len(member.encode()) + 1 for member in value)
        case bool() | None:
            return 1
        case int():
            return max(8, value.bit_length() // 3 + 8)
        case _:
            return 8
