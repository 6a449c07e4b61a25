"""Starts an app's workflows, adds members to running chords, and gathers the values of joins."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from cloudq.amounts import counted
from cloudq.canvas.freeze import (
    end_of,
    final_id,
    flattened,
    frozen,
    has_given_ids,
    outside_headers,
    passed_on,
    result_of,
    results_in,
)
from cloudq.canvas.join_items import store_joins, values_in
from cloudq.canvas.joins import Joins
from cloudq.canvas.plan import Before, Place, Plan, Planner, ends_of, trace_of
from cloudq.canvas.slots import SHARD, Slot, join_key
from cloudq.canvas.validate import Checks
from cloudq.driver import Change, Check, ConditionFailed, Op
from cloudq.errors import (
    ConfigurationError,
    EncodeError,
    InvalidArguments,
    PartlyStarted,
    PublishError,
)
from cloudq.messages.message import TaskMessage, new_id
from cloudq.messages.payload_places import writing
from cloudq.publishing.builder import depth_below
from cloudq.publishing.publisher import Publisher
from cloudq.results.backend import Backend
from cloudq.results.groups import AnyResult, GroupResult, outline_of
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime
from cloudq.tasks.request import current_request
from cloudq.tasks.signature import Node, Signature, chain, chord, group, is_group
from cloudq.tasks.task import Task

_NO_STORE = (
    "a chord joins its members in the result backend, and the app has none: "
    "set CloudQ(backend=...) or CLOUDQ_BACKEND"
)
# The members of a generator are stored and sent this many at a time, in whole shards.
_PORTION = 10 * SHARD


class Workflows:
    """Starts the workflows of one app, and joins their members. `tasks` may grow."""

    def __init__(
        self, runtime: Runtime, tasks: Mapping[str, Task[..., Any]], publisher: Publisher
    ) -> None:
        self._runtime = runtime
        self._make = publisher.results.planned
        self.planner = Planner(runtime, tasks, publisher.builder, publisher.marks)
        self.checks = Checks(runtime, tasks, publisher.builder)
        self._joins = Joins(runtime, self.planner)
        self._starter = Starter(runtime, publisher, self.planner, self._joins, self.checks)

    @property
    def joins(self) -> Joins | None:
        """The joins of chords; None without a result backend, where they are kept."""
        return None if self._runtime.conf.backend_url is None else self._joins

    def start(
        self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AnyResult | None:
        """Send the first tasks of a node; return its result, None for an empty chain."""
        with writing(self._runtime.payloads):
            result = self._starter.start(node, args, kwargs, self._place())
        parent = current_request.get()
        if parent is not None and result is not None:
            parent.children.append(outline_of(result))
        return result

    def in_place_of(self, message: TaskMessage, node: Node[Any]) -> Plan:
        """Plan the start of a workflow that replaces a running task, as `self.replace` asks.

        Raises `InvalidArguments`, `ConfigurationError` and `EncodeError`, before anything is sent.
        """
        with writing(self._runtime.payloads):
            self.checks.check(node)
            return self.planner.in_place_of(message, node)

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the header that the running task belongs to, and send it."""
        request, joins = current_request.get(), self.joins
        if request is None or request.slot is None or joins is None:
            raise InvalidArguments(
                "add_to_chord: the running task is no member of a chord's header: "
                "call it inside one"
            )
        with writing(self._runtime.payloads):
            self.checks.check(node)
            slot = Slot.from_wire(request.slot)
            place = self._starter.marked(node, self._place())
            made = frozen(node, in_slot=True)
            added = joins.add(slot, final_id(made))
            place = replace(place, slot=added, group=slot.join)
            self._starter.carry_out(self.planner.start(made, Before(), place))
        return self._make(end_of(made))

    def gather(self, join: str) -> list[Any]:
        """Return the values of a join's members."""
        joins = self.joins
        if joins is None:
            raise ConfigurationError(_NO_STORE)
        return values_in(join, joins.backend)

    def _place(self) -> Place:
        parent = current_request.get()
        return Place(
            root=parent.root_id if parent else None,
            parent=parent.id if parent else None,
            depth=depth_below(parent, self._runtime.conf.max_depth),
            headers=trace_of(parent.headers) if parent else {},
        )


class Starter:
    """Stores and sends workflows in the order that can be repeated after a crash."""

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
        self._make = publisher.results.planned
        self._planner = planner
        self._joins = joins
        self._checks = checks

    def start(
        self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any], place: Place
    ) -> AnyResult | None:
        """Send the first tasks of a node; return its result, None for an empty chain.

        Raises `InvalidArguments` and `EncodeError` before anything is sent, naming the wrong
        member, and `PartlyStarted` when a part was sent before an error.
        """
        if isinstance(node, chain) and not node.tasks:
            return None
        if is_group(node) and node.is_stream and not args:
            return self._stream(node, place)
        if isinstance(node, chord) and node.header.is_stream and not args:
            return self._stream_chord(node, place)
        whole = node
        if args or kwargs:
            self._checks.shape(whole)
            whole = whole.clone(args, kwargs)
        self._checks.check(whole)
        place = self.marked(whole, place)
        made = frozen(whole, numbers=self._publisher.numbers())
        plan = self._planned(whole, made, place)
        key = self._publisher.builder.unique_key(whole) if isinstance(whole, Signature) else None
        with self._blaming(whole):
            if key is None:
                self.carry_out(plan)
            else:
                self._send_unique(plan, key)
        return self._result(made, place.call)

    @contextmanager
    def _blaming(self, *nodes: Node[Any], first: int | None = None) -> Generator[None]:
        """Name the part that cannot be written; nodes of a header are members from `first` on."""
        try:
            yield
        except EncodeError as error:
            for number, node in enumerate(nodes, (first or 0) + 1):
                blamed = self._checks.blame(node, error)
                if blamed is not error:
                    place = "" if first is None else f"member {number}: "
                    raise EncodeError(f"{place}{blamed}") from error
            raise

    def _send_unique(self, plan: Plan, key: str) -> None:
        """Send a call with callbacks of a `unique` task; refuse it while an equal one counts."""
        [message] = plan.messages
        message = message.model_copy(update={"unique_key": key})
        plan.messages = [message]

        def send(fresh: Sequence[TaskMessage]) -> None:
            if fresh:
                self.carry_out(plan)

        sent = self._publisher.send_if_new(message, send)
        if sent.id != message.id:
            raise ConfigurationError(
                f"{message.task}: the equal call {sent.id} is queued or runs already, and its "
                "callbacks cannot be changed: make this call without link and link_error to get "
                "that one's result, or when it has ended"
            )

    def _planned(self, node: Node[Any], made: Node[Any], place: Place) -> Plan:
        with self._blaming(node):
            return self._planner.start(made, Before(), place)

    def carry_out(self, plan: Plan, before: Sequence[str] = ()) -> None:
        """Store the joins of a plan, then send its messages; `before` has the ids sent already."""
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
                self._joins.abandon(join, f"only a part of its header was sent: {error}")
            raise PartlyStarted(
                f"the workflow was started in part, {counted(len(unsent), 'task')} not sent: "
                f"{error}",
                sent=[*before, *sent],
                unsent=sorted(unsent),
            ) from error

    def marked(self, node: Node[Any], place: Place) -> Place:
        """Mark the place of a node in which the caller gave ids: its calls are new ones."""
        return replace(place, call=self._publisher.marks.new()) if has_given_ids(node) else place

    def _result(
        self, made: Node[Any], call: str | None, header: GroupResult[Any] | None = None
    ) -> AnyResult:
        """Return the result of a node that is in no slot, and say what will not be recorded."""
        result = result_of(made, self._make, header)
        ignores = self._publisher.results.ignores
        unrecorded = {
            one.id
            for one in outside_headers(made)
            if ignores(one.task, one.options.get("ignore_result"))
        }
        for each in results_in(result) if unrecorded or call is not None else ():
            each.ignored = each.id in unrecorded
            each.call = call
        return result

    def _store(self) -> Backend:
        backend = self._runtime.backend
        if backend is None:
            raise ConfigurationError(_NO_STORE)
        return backend

    def _stream(self, members: group[Any], place: Place) -> GroupResult[Any]:
        id = members.id or new_id()
        results: list[Any] = []
        numbers = self._publisher.numbers()
        with _partly_started(results):
            for portion in self._portions(members, {}):
                plan = Plan()
                sending: list[Any] = []
                for member in portion:
                    inside = self.marked(member, replace(place, group=id))
                    made = frozen(member, numbers=numbers, is_member=True)
                    started = self._planned(member, made, inside)
                    plan.items += started.items
                    plan.messages += started.messages
                    plan.publishing |= started.publishing
                    sending.append(self._result(made, inside.call))
                with self._blaming(*portion, first=len(results)):
                    self.carry_out(plan, _ids(results))
                results += sending
        return GroupResult(id, results)

    def _stream_chord(self, node: chord[Any], place: Place) -> AnyResult:
        """Send a chord from a generator; its join stays open until the last member is sent."""
        self._checks.check(node.body.clone(("values",)))
        place = self.marked(node.body, place)
        join, body = new_id(), frozen(node.body)
        plan = Plan()
        root = self._planner.root_item(plan, join, body, place, frozenset({"open"}), 0)
        store_joins([*plan.items, root], self._store())
        key, results, ends = join_key(join), list[Any](), ends_of(body, place)
        try:
            with _partly_started(results):
                for portion in self._portions(node.header, node.options):
                    self._stream_members(join, portion, results, place, ends)
        except BaseException as error:
            self._joins.abandon(
                join, f"only a part of its header was sent: {type(error).__name__}: {error}"
            )
            raise
        closing = Change(
            increment={"count": len(results)},
            discard={"shards": frozenset({"open"})},
            keep_expires=True,
            when=(Check(field="shards", op=Op.CONTAINS, value="open"),),
        )
        try:
            closed = self._store().update(key, closing)
        except ConditionFailed as refused:  # the answer to the first try was lost
            closed = refused.current
        if closed is not None and not closed.fields.get("shards"):
            self._joins.go_on(join, closed.fields)
        return self._result(body, place.call, GroupResult(join, results))

    def _stream_members(
        self,
        join: str,
        portion: Sequence[Node[Any]],
        results: list[Any],
        place: Place,
        ends: str,
    ) -> None:
        first = len(results)
        places = [self.marked(member, place) for member in portion]
        numbers = self._publisher.numbers()
        made = [frozen(member, in_slot=True, numbers=numbers, is_member=True) for member in portion]
        plan, sending = Plan(), list[Any]()
        for index, member in enumerate(made, start=first):
            where = places[index - first]
            inside = replace(where, slot=Slot(join=join, index=index), group=join)
            started = self._planned(portion[index - first], member, inside)
            plan.items += started.items
            plan.messages += started.messages
            plan.publishing |= started.publishing
            sending.append(result_of(member, self._make))
        ids = [final_id(member) for member in made]
        plan.items += self._planner.shard_items(join, ids, first=first, ends=ends)
        numbers = frozenset(str((first + n) // SHARD) for n in range(0, len(ids), SHARD))
        opened = Change(add={"shards": numbers}, keep_expires=True)
        self._store().update(join_key(join), opened)
        with self._blaming(*portion, first=first):
            self.carry_out(plan, _ids(results))
        results += sending

    def _portions(
        self, members: group[Any], options: Mapping[str, Any]
    ) -> Iterator[list[Node[Any]]]:
        stream = flattened(_with_options(members, {**members.options, **options}))
        count = 0
        while portion := list(islice(stream, _PORTION)):
            for member in portion:
                self._checks.check(member)
            count += len(portion)
            self._checks.count(count)
            yield portion


def _with_options(members: group[Any], options: dict[str, Any]) -> Iterator[Node[Any]]:
    """Yield the members of a stream with the options of the nodes around them."""
    for member in members.stream():
        inside = not isinstance(member, Signature) and member.options
        yield passed_on(member.clone(**options)) if options or inside else member


@contextmanager
def _partly_started(results: Sequence[Any]) -> Generator[None]:
    """Turn an error after a part was sent into `PartlyStarted`, which has the ids sent."""
    try:
        yield
    except PartlyStarted:
        raise
    except Exception as error:  # the user's generator may raise anything
        if not results:
            raise
        raise PartlyStarted(
            f"the workflow was started in part, {counted(len(results), 'member')} sent: "
            f"{type(error).__name__}: {error}",
            sent=_ids(results),
            unsent=(),
        ) from error


def _ids(results: Sequence[Any]) -> list[str]:
    return [str(result.id) for result in results]
