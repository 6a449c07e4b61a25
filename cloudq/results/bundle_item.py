"""The form of the item that has the ends of a bundle's calls, and the fences in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import orjson

from cloudq.driver import Check, Item, Key, Op, Value
from cloudq.messages.ids import bundled_id
from cloudq.messages.json_text import flat_json_text, is_list, is_object
from cloudq.results.call_marks import is_older
from cloudq.results.record import Record, State, from_usable, to_fields, usable

PARTS, REVOKED, UNTIL = "parts", "revoked", "until"
"""The fields with the number of parts that were written, with the places of revoked calls, and with
the time until which these marks are kept, which no write makes shorter."""

PlainEnd = tuple[int, str | None, float, float]
"""The place of a call that succeeded, its value as JSON text, and when it began and ended."""

# No part opens to more than this: what a store has may be damaged.
_MOST_BYTES = 64 * 1024 * 1024
_DIGITS = 6  # more than the number of any place has
_COLUMNS = frozenset({"state", "task", "queue", "worker", "fence", "parent", "root"})


def bundle_key(bundle: str) -> Key:
    """The key of the item with the records of a bundle."""
    return Key(f"bundle#{bundle}")


@dataclass(slots=True, kw_only=True)
class BundleRecords:
    """The records in the item of a bundle, by places.

    `apart` are the places of calls whose ends lie apart, `revoked` of those not to be started.
    `parts` is the number of writes, `stamp` that as the item has it; `kept` has the names of the
    parts that are there, `size` their bytes. `fences` has the latest delivery that has claimed each
    message, by its field, and `until` is the time until which the marks are kept.
    """

    bundle: str
    records: dict[int, Record] = field(default_factory=dict[int, Record])
    apart: set[int] = field(default_factory=set[int])
    revoked: set[int] = field(default_factory=set[int])
    parts: int = 0
    stamp: Value | None = None
    kept: list[str] = field(default_factory=list[str])
    size: int = 0
    fences: dict[str, int] = field(default_factory=dict[str, int])
    until: float = 0.0

    @property
    def is_known(self) -> bool:
        """True if anything is recorded of one of the calls."""
        return bool(self.records or self.apart or self.revoked)

    def is_apart(self, number: int) -> bool:
        """Tell whether the record of a call lies apart."""
        return number in self.apart and number not in self.records

    def record(self, number: int) -> Record | None:
        """Return what is known of the call at a place: its end, or that it is revoked."""
        found = self.records.get(number)
        if found is None and number in self.revoked:
            return Record(id=bundled_id(self.bundle, number), state=State.PENDING, revoked=True)
        return found


def read_item(bundle: str, item: Item | None) -> BundleRecords:
    """Read the item of a bundle; what is not written as here is passed over."""
    found = BundleRecords(bundle=bundle)
    if item is None:
        return found
    parts, until = item.fields.get(PARTS), item.fields.get(UNTIL)
    found.parts, found.stamp = parts if type(parts) is int else 0, parts
    found.until = until if isinstance(until, int | float) else 0.0
    for name, value in item.fields.items():
        if name[:1] == "p" and isinstance(value, bytes) and name[1:].isdecimal():
            found.kept.append(name)
            found.size += len(value)
        elif name[:1] == "f" and type(value) is int:
            found.fences[name] = value
    found.kept.sort(key=lambda name: int(name[1:]))
    for name in found.kept:
        part = item.fields[name]
        assert isinstance(part, bytes)
        _read_part(found, part)
    found.revoked = marked(item.fields.get(REVOKED))
    return found


def marked(revoked: Value | None) -> set[int]:
    """Read the places of revoked calls."""
    if not isinstance(revoked, Set):
        return set()
    return {int(text) for text in revoked if text.isdecimal() and len(text) < _DIGITS}


def _read_part(found: BundleRecords, part: bytes) -> None:
    for number, record in opened(found.bundle, part):
        if record is None:
            found.apart.add(number)
            found.records.pop(number, None)  # that of an earlier call of the id
        elif number not in found.records or is_older(found.records[number], record.call):
            found.records[number] = record  # else the first end stays


def opened(bundle: str, part: bytes) -> Iterator[tuple[int, Record | None]]:
    """Read the records in a part, with their places; None is that of one that lies apart."""
    try:
        opener = zlib.decompressobj()
        plain: Any = orjson.loads(opener.decompress(part, _MOST_BYTES))
    except (zlib.error, ValueError):  # another program wrote it
        return
    if not is_object(plain) or not is_object(plain.get("all")) or not is_list(plain.get("calls")):
        return
    shared = usable(plain["all"])
    for entry in plain["calls"]:
        if not is_list(entry) or len(entry) != 2 or type(entry[0]) is not int:
            continue
        number, fields = entry
        if fields is None:
            yield number, None
        elif is_object(fields):
            yield number, from_usable(bundled_id(bundle, number), shared | usable(fields))


def part_of(records: Mapping[int, Record | None], *, exact: bool = False) -> bytes:
    """Write the part of these records; None stands for one that lies apart.

    Unless it is to be `exact`, times are those of the nearest millisecond. That of a dead letter
    tells what was sent before it from what was sent again.
    """
    write = to_fields if exact else _fields
    calls = [[number, None if one is None else write(one)] for number, one in records.items()]
    kept: list[dict[str, Value]] = [row for _, row in calls if isinstance(row, dict)]
    shared = {
        name: value
        for name, value in (kept[0] if kept else {}).items()
        if name in _COLUMNS and [row.get(name) for row in kept].count(value) == len(kept)
    }
    for row in kept:
        for name in shared:
            del row[name]
    return zlib.compress(flat_json_text({"all": shared, "calls": calls}), 1)


def plain_part(shared: Record, ends: Iterable[PlainEnd]) -> bytes:
    """Write a part as `part_of` does, of records that differ in nothing but the ends of calls."""
    calls: list[tuple[int, dict[str, Value]]] = []
    for number, value, started, finished in ends:
        row: dict[str, Value] = {} if value is None else {"value": value}
        row["started_at"], row["finished_at"] = round(started, 3), round(finished, 3)
        calls.append((number, row))
    return zlib.compress(flat_json_text({"all": _fields(shared), "calls": calls}), 1)


def _fields(record: Record) -> dict[str, Value]:
    fields = to_fields(record)
    for name in ("started_at", "finished_at") if not record.dead_lettered else ():
        moment = fields.get(name)
        if isinstance(moment, float):
            fields[name] = round(moment, 3)
    return fields


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery of a message with calls of a bundle: the id of the message, and its number.

    Several messages may have calls of one bundle, each its own: what is too large for one is in
    two, and what was given back comes in another.
    """

    message: str
    number: int

    @property
    def field(self) -> str:
        """The field of the bundle's item that has the latest delivery of the message."""
        name = self.message.encode(errors="replace")
        return f"f{crc32(name):08x}{crc32(name[::-1]):08x}"

    def is_late(self, standing: BundleRecords) -> bool:
        """Tell whether a later delivery of the message has claimed the bundle."""
        return standing.fences.get(self.field, 0) > self.number

    def claim(self) -> dict[str, Value]:
        """Return the field to set; a first delivery has nothing to keep out."""
        return {self.field: self.number} if self.number > 1 else {}

    def checks(self) -> tuple[Check, ...]:
        """Return what holds while no later delivery has claimed the bundle."""
        return (Check(field=self.field, op=Op.LE, value=self.number, or_absent=True),)


def is_same(one: Record, other: Record) -> bool:
    """Tell whether two records are of one end: an answer that was lost is written again."""
    return _fields(one) == _fields(other)


def unmarked_after(expires: float) -> Check:
    """Return the check that no mark of revocation is to be kept for longer than this."""
    return Check(field=UNTIL, op=Op.LE, value=expires, or_absent=True)


def unchanged(standing: BundleRecords) -> Check:
    """Return the check that no part was added since the item was read."""
    if standing.stamp is None:
        return Check(field=PARTS, op=Op.ABSENT)
    return Check(field=PARTS, op=Op.EQ, value=standing.stamp)
