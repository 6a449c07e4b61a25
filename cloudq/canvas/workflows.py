"""The workflows of one app: starting them, running them eagerly, joining their members."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.broker.broker import Broker
from cloudq.canvas.freeze import final_id, frozen
from cloudq.canvas.joins import Joins
from cloudq.canvas.plan import Before, Place, Planner, too_deep, trace_of
from cloudq.canvas.slots import Slot
from cloudq.canvas.starting import Publish, Starter
from cloudq.canvas.validate import Checks
from cloudq.errors import ConfigurationError, InvalidArguments
from cloudq.results.backend import Backend
from cloudq.results.groups import AnyResult, Make, as_tuple
from cloudq.results.result import AsyncResult
from cloudq.tasks.request import Request, current_request
from cloudq.tasks.signature import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflows:
    """What an app does with nodes. `broker` and `backend` are opened when they are needed."""

    planner: Planner
    publish: Publish
    make: Make
    broker: Callable[[], Broker]
    backend: Callable[[], Backend | None]
    max_depth: Callable[[], int]
    checks: Checks

    @property
    def joins(self) -> Joins | None:
        """What joins the members of chords; None without a result backend."""
        backend = self.backend()
        return None if backend is None else Joins(backend, self.broker(), self.planner)

    def start(
        self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AnyResult | None:
        """Send what starts the node; the result of it all, None of an empty chain."""
        result = self._starter().start(node, args, kwargs, self._place())
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
        self._starter().carry_out(self.planner.start(made, Before(), place))
        return self.make(final_id(made), "")

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
            depth=depth_below(parent, self.max_depth()),
            headers=trace_of(parent.headers) if parent else {},
        )

    def _starter(self) -> Starter:
        return Starter(
            planner=self.planner,
            publish=self.publish,
            make=self.make,
            backend=self.backend,
            joins=lambda: self.joins,
            checks=self.checks,
        )


def depth_below(parent: Request | None, most: int) -> int:
    """How deep a call made within this one is. Raises `RecursionError`."""
    depth = parent.depth + 1 if parent else 0
    if depth > most:
        raise too_deep(most)
    return depth
