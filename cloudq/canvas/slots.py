"""Where the members of a join leave word that they have ended."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.driver import Key
from cloudq.results.record import Record

# So many members share an item of the store, which so many will change one after the other.
SHARD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of one member in a join."""

    join: str
    index: int

    def to_wire(self) -> str:
        """As one string, `index@join`."""
        return f"{self.index}@{self.join}"

    @classmethod
    def from_wire(cls, text: str) -> Slot:
        """The slot in a string that `to_wire` made."""
        index, _, join = text.partition("@")
        return cls(join=join, index=int(index))


def join_key(join: str) -> Key:
    """Where a join says what follows it, and which of its shards are not done."""
    return Key(f"join#{join}")


def shard_key(join: str, number: int) -> Key:
    """Where a shard of a join keeps which of its members are still out."""
    return Key(f"join#{join}", f"s{number:07d}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResult:
    """What a member leaves at its slot: the record of its end."""

    slot: Slot
    record: Record
