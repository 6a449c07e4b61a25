"""Joins: members leave word, the last one out starts what follows, and it runs once.

A member's slot is removed from a set, so that removing it twice is removing it once. Whoever
finds the last set empty claims what follows, sends it under an id that was fixed in advance, and
notes that it is sent. A crash at any point leaves the member's message unacked; its redelivery
comes by here again and does what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from cloudq.backend import Backend
from cloudq.broker import Broker
from cloudq.canvas.nodes import from_dict
from cloudq.canvas.plan import Before, Place, Planner
from cloudq.canvas.slots import SHARD, Slot, Word, join_key, shard_key
from cloudq.codec import load_value
from cloudq.driver import Change, Check, ConditionFailed, Item, Op, Value
from cloudq.errors import ChordError
from cloudq.ids import new_id
from cloudq.record import Record, State

log = logging.getLogger("cloudq.canvas")

# Whoever dies while it sends what follows keeps the others from it for this long.
_CLAIM = 30.0
_ADDED = 5_000_000


class Joins:
    """The joins of one store. Safe to use from many threads.

    Every method raises `BackendError` and, when something is sent, `BrokerError`.
    """

    def __init__(self, backend: Backend, broker: Broker, planner: Planner) -> None:
        self.backend = backend
        self._broker = broker
        self._planner = planner
        self._owner = new_id()

    def leave(self, word: Word) -> None:
        """A member has ended, and that is recorded: what follows from it."""
        if word.record.state is State.SUCCESS:
            self._succeeded(word.slot)
        else:
            self._failed(word.slot, word.record)

    def _succeeded(self, slot: Slot) -> None:
        """If it is the last one out, go on."""
        number = slot.index // SHARD
        left = self._discard(slot, number)
        if left is None or left:
            return
        root = self._discard_shard(slot.join, number)
        if root is None or root.get("shards"):
            return
        self.go_on(slot.join, root)

    def _failed(self, slot: Slot, record: Record) -> None:
        """What follows fails with it, at once."""
        change = Change(
            set={"failed": record.id},
            keep_expires=True,
            when=(
                Check(field="follows", op=Op.EXISTS),
                Check(field="sent", op=Op.ABSENT),
                Check(field="failed", op=Op.EQ, value=record.id, or_absent=True),
            ),
        )
        try:
            root = self.backend.update(join_key(slot.join), change).fields
        except ConditionFailed:
            return  # another member has failed before, or the join is gone
        self._fail(root, record)

    def _discard(self, slot: Slot, number: int) -> frozenset[str] | None:
        change = Change(
            discard={"left": frozenset({str(slot.index)})},
            keep_expires=True,
            when=(Check(field="ids", op=Op.EXISTS),),
        )
        try:
            fields = self.backend.update(shard_key(slot.join, number), change).fields
        except ConditionFailed:
            log.warning("the join %s is not there any more", slot.join)
            return None
        return cast("frozenset[str]", fields.get("left") or frozenset())

    def _discard_shard(self, join: str, number: int) -> Mapping[str, Value] | None:
        change = Change(
            discard={"shards": frozenset({str(number)})},
            keep_expires=True,
            when=(Check(field="follows", op=Op.EXISTS),),
        )
        try:
            return self.backend.update(join_key(join), change).fields
        except ConditionFailed:
            return None

    def go_on(self, join: str, root: Mapping[str, Value]) -> None:
        """Send what follows, unless somebody has, or is at it."""
        if root.get("sent") or not self._claim(join):
            return
        follows = _follows(root)
        before = Before(gather=join)
        plan = self._planner.start(from_dict(follows["node"]), before, _place(follows))
        failures = self.backend.put(plan.items) if plan.items else {}
        assert not failures, failures
        self._broker.send(plan.messages)
        self.backend.update(join_key(join), Change(set={"sent": True}, keep_expires=True))

    def _claim(self, join: str) -> bool:
        now = self.backend.clock()
        change = Change(
            set={"owner": self._owner, "until": now + _CLAIM},
            keep_expires=True,
            when=(
                Check(field="sent", op=Op.ABSENT),
                Check(field="failed", op=Op.ABSENT),
                Check(field="until", op=Op.LT, value=now, or_absent=True),
            ),
        )
        try:
            self.backend.update(join_key(join), change)
        except ConditionFailed:
            return False
        return True

    def _fail(self, root: Mapping[str, Value], record: Record) -> None:
        follows = _follows(root)
        error = f"member {record.id} failed: {record.error_type}: {record.error}"
        body = Record(
            id=follows["body"],
            state=State.FAILURE,
            error_type="cloudq.errors.ChordError",
            error=error,
            finished_at=self.backend.clock(),
        )
        self.backend.advance(body)
        place = _place(follows)
        errbacks = [
            errback for node in from_dict(follows["node"]).first() for errback in node.link_errors
        ]
        messages = self._planner.errbacks(errbacks, body, place)
        if messages:
            self._broker.send(messages)
        if place.slot is not None:
            self._failed(place.slot, body)

    def add(self, slot: Slot, id: str) -> Slot:
        """Make room for one more member, whose value will be that of task `id`.

        Call while the member at `slot` runs: it keeps the join open.
        """
        one = Change(increment={"count": 1, "added": 1}, keep_expires=True)
        root = self.backend.update(join_key(slot.join), one).fields
        # Added members have shards of their own, behind all that the header can have.
        number = _ADDED + int(cast("int", root["added"]))
        index = number * SHARD
        fields = {"left": frozenset({str(index)}), "ids": orjson.dumps([id]).decode()}
        self.backend.put([Item(key=shard_key(slot.join, number), fields=fields)])
        more = Change(add={"shards": frozenset({str(number)})}, keep_expires=True)
        self.backend.update(join_key(slot.join), more)
        return Slot(join=slot.join, index=index)

    def values(self, join: str) -> list[Any]:
        """The values of a join's members, in their order. Raises `ChordError` if one is gone."""
        root = self.backend.get([join_key(join)]).get(join_key(join))
        if root is None:
            raise ChordError(f"the join {join} is not there any more: it has expired")
        added = int(cast("int", root.fields.get("added", 0)))
        shards = -(-(int(cast("int", root.fields["count"])) - added) // SHARD)
        numbers = [*range(shards), *range(_ADDED + 1, _ADDED + 1 + added)]
        keys = [shard_key(join, number) for number in numbers]
        found = self.backend.get(keys)
        ids = [id for key in keys for id in _ids(found.get(key))]
        records = self.backend.records(ids)
        missing = next((id for id in ids if _unusable(records.get(id))), None)
        if missing is not None:
            raise ChordError(f"the value of member {missing} is not there any more")
        return [load_value(value) if (value := records[id].value) else None for id in ids]


def _unusable(record: Record | None) -> bool:
    return record is None or record.state is not State.SUCCESS


def _ids(shard: Item | None) -> Sequence[str]:
    return orjson.loads(str(shard.fields["ids"])) if shard is not None else ()


def _follows(root: Mapping[str, Value]) -> dict[str, Any]:
    return orjson.loads(str(root["follows"]))


def _place(follows: Mapping[str, Any]) -> Place:
    slot = follows.get("slot")
    return Place(
        rest=tuple(follows["rest"]),
        slot=Slot.from_wire(slot) if slot is not None else None,
        root=follows.get("root"),
        parent=follows.get("parent"),
        group=follows.get("group"),
        depth=follows.get("depth", 0),
    )
