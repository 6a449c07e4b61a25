"""The workflows of one app: starting them, running them eagerly, joining their members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudq.canvas.freeze import final_id, frozen
from cloudq.canvas.joins import Joins
from cloudq.canvas.plan import Before, Place, Planner, trace_of
from cloudq.canvas.slots import Slot
from cloudq.canvas.starting import Starter
from cloudq.canvas.validate import Checks
from cloudq.errors import ConfigurationError, InvalidArguments
from cloudq.publishing.builder import depth_below
from cloudq.publishing.publisher import Publisher
from cloudq.results.groups import AnyResult, as_tuple
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime
from cloudq.tasks.request import current_request
from cloudq.tasks.signature import Node
from cloudq.tasks.task import Task


class Workflows:
    """Starts the workflows of one app, and joins their members. `tasks` may grow."""

    def __init__(
        self, runtime: Runtime, tasks: Mapping[str, Task[..., Any]], publisher: Publisher
    ) -> None:
        self._runtime = runtime
        self._make = publisher.results.named
        self.planner = Planner(runtime, tasks, publisher.builder)
        self.checks = Checks(runtime, tasks)
        self._joins = Joins(runtime, self.planner)
        self._starter = Starter(runtime, publisher, self.planner, self._joins, self.checks)

    @property
    def joins(self) -> Joins | None:
        """The joins of chords; None without a result backend, where they are kept."""
        return None if self._runtime.conf.backend_url is None else self._joins

    def start(
        self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AnyResult | None:
        """Send what starts the node; the result of it all, None of an empty chain."""
        result = self._starter.start(node, args, kwargs, self._place())
        parent = current_request.get()
        if parent is not None and result is not None:
            parent.children.append(as_tuple(result))
        return result

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the header that the running task is a member of, and send it."""
        request, joins = current_request.get(), self.joins
        if request is None or request.slot is None or joins is None:
            raise InvalidArguments("add_to_chord is for a running member of a chord's header")
        slot = Slot.from_wire(request.slot)
        made = frozen(node, in_slot=True)
        added = joins.add(slot, final_id(made))
        place = self._place(slot=added, group=slot.join)
        self._starter.carry_out(self.planner.start(made, Before(), place))
        return self._make(final_id(made), "")

    def gather(self, join: str) -> list[Any]:
        """The values of a join's members."""
        joins = self.joins
        if joins is None:
            raise ConfigurationError("a chord's values are in the result backend: there is none")
        return joins.values(join)

    def _place(self, *, slot: Slot | None = None, group: str | None = None) -> Place:
        parent = current_request.get()
        return Place(
            slot=slot,
            group=group,
            root=parent.root_id if parent else None,
            parent=parent.id if parent else None,
            depth=depth_below(parent, self._runtime.conf.max_depth),
            headers=trace_of(parent.headers) if parent else {},
        )
