"""Chord joins: each member marks its slot done, and the last one sends the body exactly once.

A member's slot is removed from a set, so that doing it twice changes nothing. The process that
empties the last set claims the join, sends the body under an id that was fixed in advance, and
records that it is sent. A crash at any point leaves the member's message unacked, and its
redelivery does what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from cloudq.canvas.errbacks import CHORD_ERROR, member_failed
from cloudq.canvas.freeze import errbacks_of, last
from cloudq.canvas.join_items import (
    ADDED,
    EXPIRED,
    count_member,
    ends_in,
    has_begun,
    is_gone,
    number_in,
    store_joins,
)
from cloudq.canvas.plan import Before, Plan, Planner, place_in
from cloudq.canvas.slots import SHARD, MemberResult, Slot, join_key, shard_key
from cloudq.canvas.tails import StepsLost, Tails, calls_of, record_all
from cloudq.driver import Change, Check, Code, ConditionFailed, Item, Op, Value
from cloudq.driver.log import Log
from cloudq.errors import (
    BackendError,
    BrokerError,
    ConfigurationError,
    DecodeError,
    EncodeError,
    InvalidArguments,
    ServiceError,
)
from cloudq.messages.json_text import json_text
from cloudq.messages.message import new_id
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State
from cloudq.results.stored import reading
from cloudq.runtime import Runtime
from cloudq.tasks.signature_json import from_dict

log = Log("cloudq.canvas")

# How long a process that dies while it sends a body keeps others from it, in seconds.
_CLAIM = 15.0
# Codes of requests that the services will never accept.
_NEVER = frozenset({Code.INVALID, Code.TOO_LARGE})


class JoinBusy(BackendError):
    """Raised while another process sends a chord's body; try again after `after` seconds."""

    def __init__(self, join: str, after: float) -> None:
        super().__init__(
            f"another process is sending the body of the chord {join}", code=Code.THROTTLED
        )
        self.after = after


class Joins:
    """The joins of one store. Safe to use from many threads.

    Every method raises `BackendError` and, when something is sent, `BrokerError`.
    """

    def __init__(self, runtime: Runtime, planner: Planner) -> None:
        self._runtime = runtime
        self._planner = planner

    @property
    def tails(self) -> Tails:
        """The later steps of long chains."""
        return self._planner.tails

    @property
    def backend(self) -> Backend:
        """The store that keeps the joins. Raises `ConfigurationError` where the app has none."""
        backend = self._runtime.backend
        if backend is None:
            raise ConfigurationError(
                "a chord joins its members in the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return backend

    def leave(self, member_results: Sequence[MemberResult]) -> Mapping[int, ServiceError]:
        """Mark members whose end is recorded as done, and send the body after the last one.

        Those of one shard take one request. Returns errors by the index of the member's result,
        which must be given again then; raises nothing.
        """
        wrong: dict[int, ServiceError] = {}
        shards: dict[str, dict[int, list[int]]] = {}
        for at, member_result in enumerate(member_results):
            slot = member_result.slot
            if member_result.record.state is State.SUCCESS:
                shards.setdefault(slot.join, {}).setdefault(slot.index // SHARD, []).append(at)
                continue
            try:
                self._failed(slot, member_result.record)
            except ServiceError as error:
                wrong[at] = error
        for join, numbers in shards.items():
            try:
                self._succeeded(join, member_results, numbers)
            except ServiceError as error:
                wrong |= {at: error for places in numbers.values() for at in places}
        return wrong

    def _succeeded(
        self,
        join: str,
        member_results: Sequence[MemberResult],
        numbers: Mapping[int, Sequence[int]],
    ) -> None:
        """Take members out of their shards, and send the body if they were the last ones."""
        empty: list[int] = []
        for number, places in numbers.items():
            left = self._discard(join, number, [member_results[at].slot.index for at in places])
            if left is None:
                self.abandon(join, f"a part of its join, s{number:07d}, is not in the store")
            elif not left:
                empty.append(number)
        if not empty:
            return
        root = self._discard_shards(join, empty)
        if root is not None and not root.get("shards"):
            self.go_on(join, root)

    def _failed(self, slot: Slot, record: Record) -> None:
        """Fail the body at once, since a member has failed."""
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
        except ConditionFailed as refused:
            if is_gone(refused):
                self._lost(slot.join)
            return  # else another member has failed before
        self._fail(slot.join, root, member_failed(record))

    def _discard(self, join: str, number: int, indices: Sequence[int]) -> frozenset[str] | None:
        """Take members out of a shard; return those that are left, None if it is gone."""
        change = Change(
            discard={"left": frozenset(map(str, indices))},
            keep_expires=True,
            when=(Check(field="ids", op=Op.EXISTS),),
        )
        try:
            fields = self.backend.update(shard_key(join, number), change).fields
        except ConditionFailed:
            log.warning("the join %s, or a part of it, does not exist any more", join)
            return None
        left = fields.get("left")
        return left if isinstance(left, frozenset) else frozenset()

    def _discard_shards(self, join: str, numbers: Sequence[int]) -> Mapping[str, Value] | None:
        change = Change(
            discard={"shards": frozenset(map(str, numbers))},
            keep_expires=True,
            when=(Check(field="follows", op=Op.EXISTS),),
        )
        try:
            return self.backend.update(join_key(join), change).fields
        except ConditionFailed:
            self._lost(join)
            return None

    def go_on(self, join: str, root: Mapping[str, Value]) -> None:
        """Send the body, unless it is sent already.

        Raises `JoinBusy` while another process is sending it, since that process may have died.
        """
        if root.get("sent") or root.get("failed"):
            return
        claim = self._claim(join)
        if claim is None:
            return
        try:
            follows = self._follows(join, root)
            with reading(join_key(join)):
                node, place = from_dict(follows["node"]), place_in(follows)
            self._start(self._planner.start(node, Before(gather=join), place))
        except (DecodeError, EncodeError, ConfigurationError, InvalidArguments) as never:
            self._give_up(join, claim, root, never)
            return
        except ServiceError as error:
            if error.code in _NEVER or (isinstance(error, BrokerError) and _no_queue(error)):
                self._give_up(join, claim, root, error)
                return
            self._unclaim(join, claim)
            raise
        still_there = Check(field="follows", op=Op.EXISTS)
        sent = Change(set={"sent": True}, keep_expires=True, when=(still_there,))
        with suppress(ConditionFailed):  # it has expired just now
            self.backend.insist(join_key(join), sent)

    def _start(self, plan: Plan) -> None:
        """Store the joins of a plan, then send its messages."""
        store_joins(plan.items, self.backend)
        if plan.messages:
            self._runtime.broker.send(plan.messages)

    def _claim(self, join: str) -> str | None:
        """Claim a join while its body is sent; return None if the body is sent or has failed."""
        claim, now = new_id(), self.backend.clock()
        change = Change(
            set={"owner": claim, "until": now + _CLAIM},
            keep_expires=True,
            when=(
                Check(field="follows", op=Op.EXISTS),
                Check(field="sent", op=Op.ABSENT),
                Check(field="failed", op=Op.ABSENT),
                Check(field="until", op=Op.LT, value=now, or_absent=True),
            ),
        )
        try:
            self.backend.update(join_key(join), change)
        except ConditionFailed as refused:
            fields: Mapping[str, Value] = refused.current.fields if refused.current else {}
            if fields.get("sent") or fields.get("failed") or "follows" not in fields:
                return None
            if fields.get("owner") == claim:  # the answer to the first try was lost
                return claim
            raise JoinBusy(join, max(1.0, number_in(fields.get("until", now)) - now)) from refused
        except BackendError:
            self._unclaim(join, claim)  # it may be ours all the same, if only the answer was lost
            raise
        return claim

    def _unclaim(self, join: str, claim: str) -> None:
        """Give up a claim, so that the next try need not wait for its end."""
        own = Check(field="owner", op=Op.EQ, value=claim)
        change = Change(set={"until": 0.0}, keep_expires=True, when=(own,))
        try:
            self.backend.insist(join_key(join), change)
        except ConditionFailed:
            return  # it was never ours
        except ServiceError as error:
            log.warning(
                "join %s: the claim could not be released, so it lasts for %g s more: %s",
                join,
                _CLAIM,
                error,
            )

    def _give_up(self, join: str, claim: str, root: Mapping[str, Value], why: Exception) -> None:
        """Fail the body, which can never be started, under the claim of this process."""
        try:
            self._fail(join, root, f"it cannot be started: {why}")
        except ServiceError:
            self._unclaim(join, claim)
            raise
        self.backend.insist(join_key(join), Change(set={"failed": "itself"}, keep_expires=True))

    def abandon(self, join: str, why: str) -> None:
        """Fail the body of a chord whose header was sent, or is stored, only in part."""
        change = Change(
            set={"failed": "its header"},
            keep_expires=True,
            when=(
                Check(field="follows", op=Op.EXISTS),
                Check(field="sent", op=Op.ABSENT),
                Check(field="told", op=Op.ABSENT),
                Check(field="failed", op=Op.EQ, value="its header", or_absent=True),
            ),
        )
        try:
            root = self.backend.update(join_key(join), change).fields
        except ConditionFailed as refused:
            if is_gone(refused):
                self._lost(join)
            return
        self._fail(join, root, why)
        # Until then the next member that finds the header in parts fails the body again.
        self.backend.insist(join_key(join), Change(set={"told": True}, keep_expires=True))

    def _lost(self, join: str) -> None:
        """Fail the body of a join without its root item, if it has no record yet.

        A body that was sent finds its values gone, and fails by itself. The join's first shard
        names who waits; what else the root had, such as error callbacks, is lost.
        """
        why = f"{EXPIRED.format(join)}; or it was deleted"
        ends = ends_in(join, self.backend)
        if ends is None:
            log.error("%s, and nothing of it tells which body waits for it", why)
            return
        body, *rest = map(str, ends["ids"])
        call, known = ends.get("call"), self.backend.records([body]).get(body)
        if known is not None and has_begun(known, call, why):
            log.warning("%s; its body, %s, has been started", why, body)
            return
        log.error("%s: its body, %s, fails", why, body)
        failed = Record(
            id=body,
            state=State.FAILURE,
            error_type=CHORD_ERROR,
            error=why,
            finished_at=self.backend.clock(),
            call=call,
            join=join,
        )
        record_all([failed, *(replace(failed, id=id, join=None) for id in rest)], self.backend)
        if "slot" in ends:
            with reading(shard_key(join, 0)):
                outer = Slot.from_wire(ends["slot"])
            self._failed(outer, failed)

    def _fail(self, join: str, root: Mapping[str, Value], why: str) -> None:
        with reading(join_key(join)):
            follows = orjson.loads(str(root["follows"]))
            id, node, place = str(follows["body"]), from_dict(follows["node"]), place_in(follows)
        body = Record(
            id=id,
            state=State.FAILURE,
            error_type=CHORD_ERROR,
            error=why,
            finished_at=self.backend.clock(),
            parent=place.parent,
            call=place.call,
        )
        inside, after = self._calls([follows["node"]]), self._calls(place.rest)
        ends = {call.id for call in last(node)}
        record_all(
            [
                *(replace(body, id=id, task=task, join=join) for id, task in inside if id in ends),
                *(replace(body, id=id, task=task) for id, task in inside if id not in ends),
                *(replace(body, id=id, task=task) for id, task in after),
            ],
            self.backend,
        )
        try:
            self._follows(join, root)
        except DecodeError as forged:
            log.error("join %s: nothing is sent of what it names: %s", join, forged)
            return
        failed = replace(body, task=next((task for id, task in inside if id == body.id), ""))
        self._start(self._planner.errbacks(errbacks_of(node), failed, place))
        if place.slot is not None:
            self._failed(place.slot, failed)

    def _follows(self, join: str, root: Mapping[str, Value]) -> dict[str, Any]:
        """Read what follows a join. Raises `DecodeError` where its signature is wrong."""
        text = str(root.get("follows"))
        self._runtime.broker.codec.check_seal(root, join_key(join).partition, text)
        with reading(join_key(join)):
            return dict(orjson.loads(text))

    def _calls(self, steps: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
        """Return the ids and tasks of all calls in steps; those that are lost are only logged."""
        try:
            return calls_of(self.tails.whole(steps))[0]
        except StepsLost as error:
            log.error("the steps after a chord are not recorded as failed: %s", error)
            return calls_of(steps)[0]

    def add(self, slot: Slot, id: str) -> Slot:
        """Add a slot for one more member, the task `id`.

        Call this while the member at `slot` runs, which keeps the join open. Raises `ChordError`
        when the join is gone.
        """
        number = ADDED + count_member(slot.join, id, self.backend)
        index = number * SHARD
        fields = {"left": frozenset({str(index)}), "ids": json_text([id]).decode()}
        expires = self.backend.clock() + self.backend.expires
        shard = Item(key=shard_key(slot.join, number), fields=fields, expires=expires)
        store_joins([shard], self.backend)
        more = Change(
            add={"shards": frozenset({str(number)})},
            discard={"adders": frozenset({id})},
            keep_expires=True,
        )
        self.backend.insist(join_key(slot.join), more)
        return Slot(join=slot.join, index=index)


def _no_queue(error: BrokerError) -> bool:
    """Say if the queue of a message does not exist: one chord must not hold up a worker."""
    return error.code == Code.NOT_FOUND
