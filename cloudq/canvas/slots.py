"""Slots of joins: one for each member, stored in shards."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.driver import Key
from cloudq.results.record import Record

# The members of one shard share an item of the store, so their updates wait for each other.
SHARD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of one member in a join."""

    join: str
    index: int

    def to_wire(self) -> str:
        """Write the slot as one string, `index@join`."""
        return f"{self.index}@{self.join}"

    @classmethod
    def from_wire(cls, text: str) -> Slot:
        """Read the string that `to_wire` made."""
        index, _, join = text.partition("@")
        return cls(join=join, index=int(index))


def join_key(join: str) -> Key:
    """Return the key of a join's root item, which has its body and its unfinished shards."""
    return Key(f"join#{join}")


def shard_key(join: str, number: int) -> Key:
    """Return the key of a shard, which has the slots of its unfinished members."""
    return Key(f"join#{join}", f"s{number:07d}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResult:
    """The record of a member's end, with its slot in the join."""

    slot: Slot
    record: Record
