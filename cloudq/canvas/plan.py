"""Plans the start of workflows: the items to store and the messages to send.

Every task of a workflow has its id before anything is sent, so that a repetition after a crash
sends the same calls again. A message carries its own continuation: the next steps of its chain,
its callbacks, and the slot of the join that gets its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

from cloudq.broker.retry import PublishPolicy, publish_policy
from cloudq.canvas.errbacks import errback_values
from cloudq.canvas.freeze import end_of, final_id, frozen, has_given_ids, outline, walk
from cloudq.canvas.slots import SHARD, Slot, join_key, shard_key
from cloudq.canvas.tails import CARRIED, Tails, calls_of
from cloudq.driver import Item, Value
from cloudq.errors import InvalidArguments
from cloudq.messages.json_text import json_text
from cloudq.messages.message import CELERY, TaskMessage
from cloudq.messages.values import to_wire
from cloudq.publishing.builder import MessageBuilder
from cloudq.results.call_marks import Marks
from cloudq.results.outline import Outline
from cloudq.results.record import Record, State
from cloudq.runtime import Runtime
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.signature import Node, Signature, chain, chord
from cloudq.tasks.signature_json import from_dict
from cloudq.tasks.stored_steps import StoredSteps
from cloudq.tasks.task import Task

Wire = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The input of a node: the value of the task before it, the values of a join, or nothing."""

    values: tuple[Any, ...] = ()  # as wire values
    gather: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The position of a node: the steps after it, the slot for its value, and its origin.

    `call` is the mark of a workflow in which the caller gave ids of tasks.
    """

    rest: tuple[Wire, ...] = ()
    slot: Slot | None = None
    root: str | None = None
    parent: str | None = None
    group: str | None = None
    depth: int = 0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    call: str | None = None


@dataclass(slots=True, kw_only=True)
class Plan:
    """The start of some nodes: items to store first, then messages to send.

    `outlines` has the ids of the started nodes, for the record of the task that starts them.
    `publishing` has the publish policies of calls that set their own.
    """

    items: list[Item] = field(default_factory=list[Item])
    messages: list[TaskMessage] = field(default_factory=list[TaskMessage])
    outlines: list[Outline] = field(default_factory=list[Outline])
    publishing: dict[str, PublishPolicy] = field(default_factory=dict[str, PublishPolicy])


# The headers of W3C Trace Context, which connect the spans of one trace.
_TRACE = frozenset({"traceparent", "tracestate", "baggage"})


def trace_of(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the trace headers, which a task's own calls carry too."""
    return {name: value for name, value in headers.items() if name in _TRACE} if headers else {}


class Planner:
    """Plans the start of frozen nodes, of what follows a task, and of error callbacks."""

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        builder: MessageBuilder,
        marks: Marks,
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._builder = builder
        self._marks = marks
        self.tails = Tails(runtime)

    def start(self, node: Node[Any], before: Before, place: Place) -> Plan:
        """Plan the start of a frozen node."""
        plan = Plan()
        self._start(plan, node, before, place)
        if plan.items:
            _outlast(plan, self._runtime.clock())
        return plan

    def after(self, message: TaskMessage, record: Record) -> Plan:
        """Plan what a task's end starts: the next step of its chain, and its callbacks."""
        place = Place(
            root=message.root or message.id,
            parent=message.id,
            depth=message.depth,
            headers=message.headers,
            call=message.call,
        )
        if record.state is not State.SUCCESS:
            errbacks = [from_dict(errback) for errback in message.link_error]
            return self.errbacks(errbacks, record, place, message)
        before = Before(values=(orjson.loads(record.value) if record.value else None,))
        plan = Plan()
        if message.chain:
            slot = Slot.from_wire(message.slot) if message.slot else None
            first, *rest = message.chain
            if len(rest) > 2 * CARRIED and self._runtime.backend is not None:
                rest = self._carried(plan, rest)  # of a message that carries a whole chain
            following = replace(place, rest=tuple(rest), slot=slot, group=message.group)
            self._begin(plan, from_dict(first), before, following)
        for callback in message.link:
            self._begin(plan, from_dict(callback), before, place)
        return plan

    def _begin(self, plan: Plan, node: Node[Any], before: Before, place: Place) -> None:
        self._start(plan, node, before, place)
        plan.outlines.append(outline(node))

    def in_place_of(self, message: TaskMessage, node: Node[Any]) -> Plan:
        """Plan the start of a workflow that replaces a task: its last task gets the task's id."""
        call = self._marks.new() if has_given_ids(node) else message.call
        made = frozen(node, in_slot=True)
        end = end_of(made)
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
            headers=message.headers,
            call=call,
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
    ) -> Plan:
        """Plan the start of error callbacks, whose ids are derived from the failed task's id.

        They stand beside the failed workflow: nothing of what follows that place follows them.
        """
        plan, place = Plan(), replace(place, rest=(), slot=None, group=None)
        for number, errback in enumerate(errbacks):
            node = _named(frozen(errback), failed.id, number)
            values = errback_values(node, failed, message, self._tasks)
            self._begin(plan, node, Before(values=values), place)
        return plan

    def _start(self, plan: Plan, node: Node[Any], before: Before, place: Place) -> None:
        if isinstance(node, Signature):
            message = self._message(plan, node, before, place)
            plan.messages.append(message)
            if "retry" in node.options or "retry_policy" in node.options:
                given = node.options.get("retry"), node.options.get("retry_policy")
                publishing = publish_policy(*given)
                plan.publishing |= {} if publishing is None else {message.id: publishing}
        elif isinstance(node, chain):
            first, *others = node.tasks
            rest = [*(self._wire(plan, step) for step in others), *place.rest]
            rest = self._carried(plan, rest)
            self._start(plan, first, before, replace(place, rest=rest))
        elif isinstance(node, chord):
            self._start_chord(plan, node, before, place)
        elif isinstance(node, StoredSteps):
            raise InvalidArguments("the steps of a chain begin with a reference to stored ones")
        else:
            inside = replace(place, rest=(), slot=None, group=node.id)
            for member in node.parts():
                self._start(plan, member, before, inside)

    def _start_chord(self, plan: Plan, node: chord[Any], before: Before, place: Place) -> None:
        members = node.header.tasks
        if not members:
            self._start(plan, node.body, Before(values=([],)), place)
            return
        join = str(node.id)
        plan.items += self._join_items(plan, node, place, [final_id(m) for m in members])
        for index, member in enumerate(members):
            slot = Slot(join=join, index=index)
            self._start(plan, member, before, replace(place, rest=(), slot=slot, group=join))

    def _join_items(
        self, plan: Plan, node: chord[Any], place: Place, ids: Sequence[str]
    ) -> list[Item]:
        """Make the items of a join: its body, and in shards the slots of unfinished members."""
        join = str(node.id)
        shards = self.shard_items(join, ids, ends=ends_of(node.body, place))
        numbers = frozenset(str(number) for number in range(len(shards)))
        return [*shards, self.root_item(plan, join, node.body, place, numbers, len(ids))]

    def shard_items(
        self, join: str, ids: Sequence[str], *, ends: str, first: int = 0
    ) -> list[Item]:
        """Make the shards of members with these ids, from slot `first` on, which starts a shard.

        The first of all has `ends` (see `ends_of`).
        """
        expires = self._runtime.clock() + self._runtime.conf.result_expires
        shards: list[Item] = []
        for start in range(0, len(ids), SHARD):
            part = ids[start : start + SHARD]
            left = frozenset(str(first + start + n) for n in range(len(part)))
            fields: dict[str, Value] = {"left": left, "ids": json_text(list(part)).decode()}
            if first + start == 0:
                fields["ends"] = ends
            key = shard_key(join, (first + start) // SHARD)
            shards.append(Item(key=key, fields=fields, expires=expires))
        return shards

    def root_item(
        self,
        plan: Plan,
        join: str,
        body: Node[Any],
        place: Place,
        shards: frozenset[str],
        count: int,
    ) -> Item:
        """Make the root item of a join, which has its body and its place.

        The later steps of a body that is a long chain become items of the plan.
        """
        node = self._wire(plan, body)
        follows: Wire = {"node": node, "rest": list(place.rest), "body": final_id(body)}
        if place.slot is not None:
            follows["slot"] = place.slot.to_wire()
        for name in ("root", "parent", "group", "depth", "headers", "call"):
            if getattr(place, name):
                follows[name] = getattr(place, name)
        text, key = json_text(follows).decode(), join_key(join)
        seal = self._runtime.broker.codec.seal(key.partition, text)
        fields: dict[str, Value] = {"shards": shards, "count": count, "follows": text, **seal}
        return Item(
            key=key,
            fields=fields,
            expires=self._runtime.clock() + self._runtime.conf.result_expires,
        )

    def _carried(self, plan: Plan, steps: Sequence[Wire]) -> tuple[Wire, ...]:
        """Return what a message carries of the steps after it; the others become items."""
        carried, items = self.tails.carried(steps)
        plan.items += items
        return carried

    def _wire(self, plan: Plan, node: Node[Any]) -> Wire:
        """Write a node as JSON values, in which long chains are cut."""
        return self._cut(plan, node.to_dict())

    def _cut(self, plan: Plan, made: Wire) -> Wire:
        for name in ("chain", "group", "chord", "link"):
            if name in made:
                made[name] = [self._cut(plan, part) for part in made[name]]
        if "chain" in made:
            made["chain"] = list(self._carried(plan, made["chain"]))
        if "body" in made:
            made["body"] = self._cut(plan, made["body"])
        return made

    def _message(
        self, plan: Plan, node: Signature[Any], before: Before, place: Place
    ) -> TaskMessage:
        takes = not node.immutable
        args = [*(before.values if takes else ()), *map(to_wire, node.args)]
        kwargs = {key: to_wire(value) for key, value in node.kwargs.items()}
        options = _options(node, place)
        if self._builder.as_sent is not None:
            args, kwargs, options = self._builder.as_sent(node.task, args, kwargs, options)
        message = self._builder.planned(
            node.task,
            args,
            kwargs,
            options,
            root=place.root,
            parent=place.parent,
            group=place.group,
            depth=place.depth,
            chain=list(place.rest),
            link=[self._wire(plan, callback) for callback in node.links],
            link_error=[errback.to_dict() for errback in node.link_errors],
            slot=place.slot.to_wire() if place.slot is not None else None,
            gather=before.gather if takes else None,
            call=place.call,
        )
        if message.protocol == CELERY and any("more" in step for step in message.chain):
            # Celery's workers know nothing of stored steps.
            whole = self.tails.whole(message.chain, plan.items)
            message = message.model_copy(update={"chain": whole})
        return message


def place_in(follows: Mapping[str, Any]) -> Place:
    """Read the place from what follows a join."""
    slot = follows.get("slot")
    return Place(
        rest=tuple(follows["rest"]),
        slot=Slot.from_wire(slot) if slot is not None else None,
        root=follows.get("root"),
        parent=follows.get("parent"),
        group=follows.get("group"),
        depth=follows.get("depth", 0),
        headers=follows.get("headers", {}),
        call=follows.get("call"),
    )


def ends_of(body: Node[Any], place: Place) -> str:
    """Write who waits for a chord's body, which is to end though the join's root item is lost."""
    ids = [final_id(body), *(id for id, _ in calls_of(place.rest)[0])]
    ends: Wire = {"ids": ids if len(ids) <= CARRIED else [*ids[:CARRIED], ids[-1]]}
    if place.slot is not None:
        ends["slot"] = place.slot.to_wire()
    if place.call is not None:
        ends["call"] = place.call
    return json_text(ends).decode()


def _outlast(plan: Plan, now: float) -> None:
    """Keep the items of joins longer by the longest delay of a member."""
    delay = max((m.not_before or 0.0 for m in plan.messages), default=0.0) - now
    if delay > 0:
        plan.items = [
            replace(item, expires=item.expires + delay) if item.expires else item
            for item in plan.items
        ]


def _options(node: Signature[Any], place: Place) -> CallOptions:
    """Return a call's options, with the headers of the call that started it beside its own."""
    options: Any = {"task_id": node.id, **node.options}
    if place.headers:
        options["headers"] = {**place.headers, **(node.options.get("headers") or {})}
    return options


def _named(node: Node[Any], failed: str, number: int) -> Node[Any]:
    """Give a node ids that are the same each time this failure is settled."""
    for place, each in enumerate(walk(node)):
        if each.id is not None:
            each.id = str(uuid5(NAMESPACE_URL, f"cloudq/errback/{failed}/{number}/{place}"))
    return node
