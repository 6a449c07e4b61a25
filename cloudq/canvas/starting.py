"""Starts workflows: everything stored and sent in the order that a crash can be repeated from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

from cloudq.backend import Backend
from cloudq.canvas.handles import result_of
from cloudq.canvas.joins import Joins
from cloudq.canvas.nodes import Node, Signature, chain, chord, group
from cloudq.canvas.plan import Before, Place, Plan, Planner, final_id, flattened, frozen
from cloudq.canvas.results import AnyResult, GroupResult, Make
from cloudq.canvas.slots import SHARD, Slot, join_key
from cloudq.driver import Change
from cloudq.errors import BackendError, ConfigurationError
from cloudq.ids import new_id
from cloudq.message import TaskMessage

# A group that a generator gives is sent in portions of so many members: whole shards.
_PORTION = 10 * SHARD

Publish = Callable[[Sequence[TaskMessage]], None]


class Starter:
    """Starts the workflows of one app."""

    def __init__(
        self,
        *,
        planner: Planner,
        publish: Publish,
        make: Make,
        backend: Callable[[], Backend | None],
        joins: Callable[[], Joins | None],
    ) -> None:
        self._planner = planner
        self._publish = publish
        self._make = make
        self._backend = backend
        self._joins = joins

    def start(
        self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any], place: Place
    ) -> AnyResult | None:
        """Send what starts the node; the result of it all, None of an empty chain."""
        if isinstance(node, chain) and not node.tasks:
            return None
        if isinstance(node, group) and cast("group[Any]", node).is_stream and not args:
            return self._stream(cast("group[Any]", node), place)
        if isinstance(node, chord) and node.header.is_stream and not args:
            return self._stream_chord(node, place)
        made = frozen(cast("Node[Any]", node.clone(args, kwargs)))
        self.carry_out(self._planner.start(made, Before(), place))
        return result_of(made, self._make)

    def carry_out(self, plan: Plan) -> None:
        """Store what joins keep, then send."""
        self._put(plan)
        self._publish(plan.messages)

    def _put(self, plan: Plan) -> None:
        if not plan.items:
            return
        failures = self._store().put(plan.items)
        if failures:
            first = next(iter(failures.values()))
            raise BackendError(f"a join was not stored: {first.reason}", code=first.code)

    def _store(self) -> Backend:
        backend = self._backend()
        if backend is None:
            raise ConfigurationError(
                "a chord joins its members in the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return backend

    def _stream(self, members: group[Any], place: Place) -> GroupResult[Any]:
        id = new_id()
        results: list[Any] = []
        for portion in _portions(members):
            plan = Plan()
            for member in portion:
                made = frozen(member)
                started = self._planner.start(made, Before(), _in_group(place, id))
                plan.items += started.items
                plan.messages += started.messages
                results.append(result_of(made, self._make))
            self.carry_out(plan)
        return GroupResult(id, results)

    def _stream_chord(self, node: chord[Any], place: Place) -> AnyResult:
        """A header that is not known whole: the join stays open until its last member is sent."""
        join, body = new_id(), frozen(node.body)
        root = self._planner.root_item(join, body, place, frozenset({"open"}), 0)
        self._put(Plan(items=[root]))
        key, count, results = join_key(join), 0, list[Any]()
        for portion in _portions(node.header):
            made = [frozen(member, in_slot=True) for member in portion]
            ids = [final_id(member) for member in made]
            shards = self._planner.shard_items(join, ids, first=count)
            numbers = frozenset(str((count + n) // SHARD) for n in range(0, len(ids), SHARD))
            self._store().update(key, Change(add={"shards": numbers}, keep_expires=True))
            plan = Plan(items=shards)
            for index, member in enumerate(made, start=count):
                inside = _in_group(place, join, Slot(join=join, index=index))
                started = self._planner.start(member, Before(), inside)
                plan.items += started.items
                plan.messages += started.messages
                results.append(result_of(member, self._make))
            self.carry_out(plan)
            count += len(made)
        closing = Change(
            increment={"count": count}, discard={"shards": frozenset({"open"})}, keep_expires=True
        )
        closed = self._store().update(key, closing)
        joins = self._joins()
        if joins is not None and not closed.fields.get("shards"):
            joins.go_on(join, closed.fields)
        return result_of(body, self._make, GroupResult(join, results))


def _portions(members: group[Any]) -> Iterator[list[Node[Any]]]:
    stream = flattened(members.stream())
    while portion := list(islice(stream, _PORTION)):
        yield portion


def _in_group(place: Place, id: str, slot: Slot | None = None) -> Place:
    return replace(place, slot=slot, group=id)


def task_names(node: Node[Any]) -> Iterator[str]:
    """The names of the tasks that a node starts with."""
    for first in node.first():
        if isinstance(first, Signature):
            yield first.task
        else:
            yield from task_names(first)
