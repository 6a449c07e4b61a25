"""Starts workflows: everything stored and sent in the order that a crash can be repeated from."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, cast

from cloudq.canvas.freeze import final_id, flattened, frozen
from cloudq.canvas.handles import result_of
from cloudq.canvas.joins import Joins, store_joins
from cloudq.canvas.plan import Before, Place, Plan, Planner
from cloudq.canvas.slots import SHARD, Slot, join_key
from cloudq.canvas.validate import Checks
from cloudq.driver import Change
from cloudq.errors import (
    ConfigurationError,
    EncodeError,
    PartlyStarted,
    PublishError,
)
from cloudq.messages.ids import new_id
from cloudq.publishing.publisher import Publisher
from cloudq.results.backend import Backend
from cloudq.results.groups import AnyResult, GroupResult
from cloudq.runtime import Runtime
from cloudq.tasks.signature import Node, chain, chord, group

# A group that a generator gives is sent in portions of so many members: whole shards.
_PORTION = 10 * SHARD


class Starter:
    """Starts the workflows of one app."""

    def __init__(
        self,
        runtime: Runtime,
        publisher: Publisher,
        planner: Planner,
        joins: Joins,
        checks: Checks,
    ) -> None:
        self._runtime = runtime
        self._publisher = publisher
        self._make = publisher.results.named
        self._planner = planner
        self._joins = joins
        self._checks = checks

    def start(
        self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any], place: Place
    ) -> AnyResult | None:
        """Send what starts the node; the result of it all, None of an empty chain.

        Raises `InvalidArguments` and `EncodeError` before anything is sent, naming the member at
        fault, and `PartlyStarted` when something was sent before it went wrong.
        """
        if isinstance(node, chain) and not node.tasks:
            return None
        if isinstance(node, group) and cast("group[Any]", node).is_stream and not args:
            return self._stream(cast("group[Any]", node), place)
        if isinstance(node, chord) and node.header.is_stream and not args:
            return self._stream_chord(node, place)
        whole = cast("Node[Any]", node)
        if args or kwargs:
            self._checks.shape(whole)
            whole = whole.clone(args, kwargs)
        self._checks.check(whole)
        made = frozen(whole)
        self.carry_out(self._planned(whole, made, place))
        return result_of(made, self._make)

    def _planned(self, node: Node[Any], made: Node[Any], place: Place) -> Plan:
        try:
            return self._planner.start(made, Before(), place)
        except EncodeError as error:
            raise self._checks.blame(node, error) from error

    def carry_out(self, plan: Plan, before: Sequence[str] = ()) -> None:
        """Store what joins keep, then send; `before` are the ids of what is sent already."""
        if plan.items:
            store_joins(plan.items, self._store())
        try:
            self._publisher.post(plan.messages, plan.publishing, named=True)
        except PublishError as error:
            unsent = {rejected.id for rejected in error.rejected}
            sent = [m.id for m in plan.messages if m.id not in unsent]
            if not sent and not before:
                raise
            cut = {Slot.from_wire(m.slot).join for m in plan.messages if m.slot and m.id in unsent}
            for join in cut:
                self._joins.abandon(join, f"its header was sent in part: {error}")
            raise PartlyStarted(
                f"the workflow was started in part, {len(unsent)} tasks were not sent: {error}",
                sent=[*before, *sent],
                unsent=sorted(unsent),
            ) from error

    def _store(self) -> Backend:
        backend = self._runtime.backend
        if backend is None:
            raise ConfigurationError(
                "a chord joins its members in the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return backend

    def _stream(self, members: group[Any], place: Place) -> GroupResult[Any]:
        id = new_id()
        results: list[Any] = []
        with _told_of(results):
            for portion in self._portions(members):
                plan = Plan()
                sending: list[Any] = []
                for member in portion:
                    made = frozen(member)
                    started = self._planned(member, made, replace(place, group=id))
                    plan.items += started.items
                    plan.messages += started.messages
                    plan.publishing |= started.publishing
                    sending.append(result_of(made, self._make))
                self.carry_out(plan, _ids(results))
                results += sending
        return GroupResult(id, results)

    def _stream_chord(self, node: chord[Any], place: Place) -> AnyResult:
        """A header that is not known whole: the join stays open until its last member is sent."""
        self._checks.check(node.body.clone(("values",)))
        join, body = new_id(), frozen(node.body)
        root = self._planner.root_item(join, body, place, frozenset({"open"}), 0)
        store_joins([root], self._store())
        key, results = join_key(join), list[Any]()
        try:
            with _told_of(results):
                for portion in self._portions(node.header):
                    self._stream_members(join, portion, results, place)
        except BaseException as error:
            self._joins.abandon(
                join, f"its header was sent in part: {type(error).__name__}: {error}"
            )
            raise
        closing = Change(
            increment={"count": len(results)},
            discard={"shards": frozenset({"open"})},
            keep_expires=True,
        )
        closed = self._store().update(key, closing)
        if not closed.fields.get("shards"):
            self._joins.go_on(join, closed.fields)
        return result_of(body, self._make, GroupResult(join, results))

    def _stream_members(
        self, join: str, portion: Sequence[Node[Any]], results: list[Any], place: Place
    ) -> None:
        first = len(results)
        made = [frozen(member, in_slot=True) for member in portion]
        plan, sending = Plan(), list[Any]()
        for index, member in enumerate(made, start=first):
            inside = replace(place, slot=Slot(join=join, index=index), group=join)
            started = self._planned(portion[index - first], member, inside)
            plan.items += started.items
            plan.messages += started.messages
            plan.publishing |= started.publishing
            sending.append(result_of(member, self._make))
        ids = [final_id(member) for member in made]
        plan.items += self._planner.shard_items(join, ids, first=first)
        numbers = frozenset(str((first + n) // SHARD) for n in range(0, len(ids), SHARD))
        opened = Change(add={"shards": numbers}, keep_expires=True)
        self._store().update(join_key(join), opened)
        self.carry_out(plan, _ids(results))
        results += sending

    def _portions(self, members: group[Any]) -> Iterator[list[Node[Any]]]:
        stream = flattened(members.stream())
        count = 0
        while portion := list(islice(stream, _PORTION)):
            for member in portion:
                self._checks.check(member)
            count += len(portion)
            self._checks.count(count)
            yield portion


@contextmanager
def _told_of(results: Sequence[Any]) -> Generator[None]:
    """Turn what goes wrong after something was sent into an error that says what was."""
    try:
        yield
    except PartlyStarted:
        raise
    except Exception as error:  # what the user's generator raises, too
        if not results:
            raise
        raise PartlyStarted(
            f"the workflow was started in part, {len(results)} members were sent: "
            f"{type(error).__name__}: {error}",
            sent=_ids(results),
            unsent=(),
        ) from error


def _ids(results: Sequence[Any]) -> list[str]:
    return [str(result.id) for result in results]
