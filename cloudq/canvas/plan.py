"""From a workflow to the messages that start it: ids for all of it, and what each task carries.

Every task of a workflow has its id before anything is sent, so that whatever is repeated after a
crash is the same call again. A message carries what is to follow: the steps of its chain, its
callbacks, and the slot of a join that its value is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import NAMESPACE_URL, uuid5

import orjson

from cloudq.canvas.nodes import (
    Node,
    Signature,
    chain,
    chord,
    from_dict,
    group,
    joined,
    to_dict,
    walk,
)
from cloudq.canvas.slots import SHARD, Slot, join_key, shard_key
from cloudq.clock import Clock, real_time
from cloudq.codec import to_wire
from cloudq.driver import Item, Value
from cloudq.ids import new_id
from cloudq.message import TaskMessage
from cloudq.record import Record, State

COLLECT = "cloudq.collect"
"""The task that gives the list of a join's values, where a group's end is one value of others."""

Wire = dict[str, Any]
Envelope = Callable[..., TaskMessage]
"""Makes a message: (task, args, kwargs, options, fields), arguments as wire values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a node gets from what went before it: a value, or the values of a join, or nothing."""

    values: tuple[Any, ...] = ()  # as wire values
    gather: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a node stands: what follows it, which slot its value is for, where it comes from."""

    rest: tuple[Wire, ...] = ()
    slot: Slot | None = None
    root: str | None = None
    parent: str | None = None
    group: str | None = None
    depth: int = 0


@dataclass(slots=True, kw_only=True)
class Plan:
    """What starts a node: items to store first, then messages to send."""

    items: list[Item] = field(default_factory=list[Item])
    messages: list[TaskMessage] = field(default_factory=list[TaskMessage])


def frozen(node: Node[Any], *, in_slot: bool = False) -> Node[Any]:
    """A copy in its simplest form in which every task and group has an id.

    `in_slot`: its value is for others, so a group at its end is collected into one value.
    """
    return _frozen(node.clone(), in_slot=in_slot)


def _frozen(node: Node[Any], *, in_slot: bool) -> Node[Any]:
    if isinstance(node, Signature):
        node.id = node.options.pop("task_id", None) or node.id or new_id()
        node.links = [frozen(callback) for callback in node.links]
        return node
    if isinstance(node, chain):
        return _frozen_chain(node, in_slot=in_slot)
    if isinstance(node, chord):
        return _frozen_chord(node, in_slot=in_slot)
    members = cast("group[Any]", node)
    if in_slot:
        return _frozen_chord(chord(members, Signature(COLLECT, app=members.app)), in_slot=True)
    flat = group([_frozen(member, in_slot=False) for member in flattened(members.tasks)])
    flat.id = node.id or new_id()
    flat.app = node.app
    return flat


def _frozen_chain(node: chain[Any], *, in_slot: bool) -> Node[Any]:
    simple = joined(node.tasks) if node.tasks else node
    steps: list[Node[Any]] = simple.tasks if isinstance(simple, chain) else [simple]
    last = steps[-1]
    for callback in node.links:
        last.link(callback)
    for step in steps:
        for errback in node.link_errors:
            step.link_error(errback)
    if len(steps) == 1:
        return _frozen(last, in_slot=in_slot)
    made: chain[Any] = chain(
        [_frozen(step, in_slot=in_slot and step is last) for step in steps],
    )
    made.app = node.app
    return made


def _frozen_chord(node: chord[Any], *, in_slot: bool) -> Node[Any]:
    members = [_frozen(member, in_slot=True) for member in flattened(node.header.tasks)]
    made: chord[Any] = chord(group(members), _frozen(node.body, in_slot=in_slot))
    made.id = node.id or new_id()
    made.app = node.app
    return made


def flattened(members: Iterable[Node[Any]]) -> Iterator[Node[Any]]:
    """The members of a group; those of a group directly in it are its own."""
    for member in members:
        if isinstance(member, group):
            yield from flattened(cast("group[Any]", member).stream())
        else:
            yield member


def _end(node: Node[Any]) -> Node[Any]:
    """The signature whose value is that of a node frozen for a slot."""
    if isinstance(node, chain):
        return _end(node.tasks[-1])
    return _end(node.body) if isinstance(node, chord) else node


def final_id(node: Node[Any]) -> str:
    """The id of the task whose value is the value of a frozen node (of a group: its own)."""
    if isinstance(node, chain):
        return final_id(node.tasks[-1])
    if isinstance(node, chord):
        return final_id(node.body)
    return str(node.id)


class Planner:
    """Starts frozen nodes.

    `expires` is how long what a join keeps lives, in seconds; `takes_request` tells of a task's
    name whether as an error callback it takes the request, the error and the traceback, or the
    failed task's id alone (Celery's two kinds).
    """

    def __init__(
        self,
        envelope: Envelope,
        *,
        expires: Callable[[], float],
        takes_request: Callable[[str], bool],
        clock: Clock = real_time,
    ) -> None:
        self._envelope = envelope
        self._expires = expires
        self._takes_request = takes_request
        self._clock = clock

    def start(self, node: Node[Any], before: Before, place: Place) -> Plan:
        """What starts a frozen node."""
        plan = Plan()
        self._start(plan, node, before, place)
        return plan

    def after(self, message: TaskMessage, record: Record) -> Plan:
        """What a task's end starts: the next of its chain, and its callbacks."""
        place = Place(root=message.root or message.id, parent=message.id, depth=message.depth)
        if record.state is not State.SUCCESS:
            errbacks = [from_dict(errback) for errback in message.link_error]
            return Plan(messages=self.errbacks(errbacks, record, place, message))
        before = Before(values=(orjson.loads(record.value) if record.value else None,))
        plan = Plan()
        if message.chain:
            slot = Slot.from_wire(message.slot) if message.slot else None
            first, *rest = message.chain
            following = replace(place, rest=tuple(rest), slot=slot, group=message.group)
            self._start(plan, from_dict(first), before, following)
        for callback in message.link:
            self._start(plan, from_dict(callback), before, place)
        return plan

    def in_place_of(self, message: TaskMessage, node: Node[Any]) -> Plan:
        """What starts a workflow in the place of a task: its end has the task's id."""
        made = frozen(node, in_slot=True)
        end = _end(made)
        end.id = message.id
        end.links += [from_dict(callback) for callback in message.link]
        for each in walk(made):
            if isinstance(each, Signature):
                each.link_errors += [from_dict(errback) for errback in message.link_error]
        place = Place(
            rest=tuple(message.chain),
            slot=Slot.from_wire(message.slot) if message.slot else None,
            root=message.root or message.id,
            parent=message.parent,
            group=message.group,
            depth=message.depth + 1,
        )
        plan = self.start(made, Before(), place)
        generation = {"replaced": message.replaced + 1}
        plan.messages = [
            each.model_copy(update=generation) if each.id == message.id else each
            for each in plan.messages
        ]
        return plan

    def errbacks(
        self,
        errbacks: Sequence[Node[Any]],
        failed: Record,
        place: Place,
        message: TaskMessage | None = None,
    ) -> list[TaskMessage]:
        """The messages of error callbacks; their ids follow from that of the failed task."""
        plan = Plan()
        request = _request(failed, message)
        for number, errback in enumerate(errbacks):
            node = _named(frozen(errback), failed.id, number)
            takes = all(
                isinstance(first, Signature) and self._takes_request(first.task)
                for first in node.first()
            )
            error = f"{failed.error_type}: {failed.error}"
            values = (request, error, failed.traceback) if takes else (failed.id,)
            self._start(plan, node, Before(values=values), place)
        return plan.messages

    def _start(self, plan: Plan, node: Node[Any], before: Before, place: Place) -> None:
        if isinstance(node, Signature):
            plan.messages.append(self._message(node, before, place))
        elif isinstance(node, chain):
            first, *others = node.tasks
            rest = (*map(to_dict, others), *place.rest)
            self._start(plan, first, before, replace(place, rest=rest))
        elif isinstance(node, chord):
            self._start_chord(plan, node, before, place)
        else:
            members = cast("group[Any]", node)
            inside = replace(place, rest=(), slot=None, group=members.id)
            for member in members.tasks:
                self._start(plan, member, before, inside)

    def _start_chord(self, plan: Plan, node: chord[Any], before: Before, place: Place) -> None:
        members = node.header.tasks
        if not members:
            self._start(plan, node.body, Before(values=([],)), place)
            return
        join = str(node.id)
        plan.items += self.join_items(join, node.body, place, [final_id(m) for m in members])
        for index, member in enumerate(members):
            slot = Slot(join=join, index=index)
            self._start(plan, member, before, replace(place, rest=(), slot=slot, group=join))

    def join_items(
        self, join: str, body: Node[Any], place: Place, ids: Sequence[str]
    ) -> list[Item]:
        """What a join keeps: what follows it, and in shards which members are still out."""
        shards = self.shard_items(join, ids)
        numbers = frozenset(str(number) for number in range(len(shards)))
        return [*shards, self.root_item(join, body, place, numbers, len(ids))]

    def shard_items(self, join: str, ids: Sequence[str], *, first: int = 0) -> list[Item]:
        """Shards for members with these ids, from number `first` on (the start of a shard)."""
        expires = self._clock() + self._expires()
        shards: list[Item] = []
        for start in range(0, len(ids), SHARD):
            part = ids[start : start + SHARD]
            left = frozenset(str(first + start + n) for n in range(len(part)))
            fields: dict[str, Value] = {"left": left, "ids": orjson.dumps(list(part)).decode()}
            key = shard_key(join, (first + start) // SHARD)
            shards.append(Item(key=key, fields=fields, expires=expires))
        return shards

    def root_item(
        self, join: str, body: Node[Any], place: Place, shards: frozenset[str], count: int
    ) -> Item:
        """The item that says what follows a join."""
        follows: Wire = {"node": to_dict(body), "rest": list(place.rest), "body": final_id(body)}
        if place.slot is not None:
            follows["slot"] = place.slot.to_wire()
        for name in ("root", "parent", "group", "depth"):
            if getattr(place, name):
                follows[name] = getattr(place, name)
        fields: dict[str, Value] = {
            "shards": shards,
            "count": count,
            "follows": orjson.dumps(follows).decode(),
        }
        return Item(key=join_key(join), fields=fields, expires=self._clock() + self._expires())

    def _message(self, node: Signature[Any], before: Before, place: Place) -> TaskMessage:
        takes = not node.immutable
        args = [*(before.values if takes else ()), *map(to_wire, node.args)]
        kwargs = {key: to_wire(value) for key, value in node.kwargs.items()}
        return self._envelope(
            node.task,
            args,
            kwargs,
            {"task_id": node.id, **node.options},
            root=place.root,
            parent=place.parent,
            group=place.group,
            depth=place.depth,
            chain=list(place.rest),
            link=[to_dict(callback) for callback in node.links],
            link_error=[to_dict(errback) for errback in node.link_errors],
            slot=place.slot.to_wire() if place.slot is not None else None,
            gather=before.gather if takes else None,
        )


def _request(failed: Record, message: TaskMessage | None) -> Wire:
    """What an error callback may know of the failed call."""
    request: Wire = {"id": failed.id, "task": failed.task, "retries": failed.retries}
    if message is not None:
        named = {"args": message.args, "kwargs": message.kwargs, "queue": message.queue}
        request |= {**named, "root_id": message.root or message.id, "parent_id": message.parent}
    return request


def _named(node: Node[Any], failed: str, number: int) -> Node[Any]:
    """The node with ids that are the same each time this failure is settled."""
    for place, each in enumerate(walk(node)):
        if each.id is not None:
            each.id = str(uuid5(NAMESPACE_URL, f"cloudq/errback/{failed}/{number}/{place}"))
    return node
