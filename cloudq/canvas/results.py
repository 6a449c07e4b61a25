"""What a caller holds of a workflow: the results of its members, and of what came before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import orjson

from cloudq.backend import Backend
from cloudq.canvas.nodes import Node, chain, chord, group
from cloudq.driver import Item, Key
from cloudq.errors import BackendError, InvalidArguments
from cloudq.record import State
from cloudq.result import AsyncResult, failure, wait_for

R = TypeVar("R")


class ResultSet(Generic[R]):
    """Some results, waited for together: any number costs one batched read a look."""

    def __init__(self, results: Sequence[AsyncResult[R] | ResultSet[Any]]) -> None:
        self.results = list(results)

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[R] | ResultSet[Any]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[R] | ResultSet[Any]:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultSet) and cast("ResultSet[Any]", other).results == (
            self.results
        )

    __hash__ = None  # type: ignore[assignment]

    def leaves(self) -> list[AsyncResult[Any]]:
        """The results of tasks, those of nested sets too."""
        return [
            leaf
            for result in self.results
            for leaf in (result.leaves() if isinstance(result, ResultSet) else (result,))
        ]

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
    ) -> list[Any]:
        """Wait for all; their values in their order.

        Raises what the first failed one raised, or `ResultTimeout`; with `propagate=False`
        exceptions stand in the place of values.
        """
        wait_for(self.leaves(), timeout=timeout, interval=interval)
        return [result.get(0, propagate) for result in self.results]

    join = get

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(self._ended())

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return self.completed_count() == len(self.leaves())

    def failed(self) -> bool:
        """Whether any has failed."""
        self._ended()
        return any(leaf.failed() for leaf in self.leaves())

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """How many have succeeded."""
        self._ended()
        return sum(
            leaf.final is not None and leaf.final.state is State.SUCCESS for leaf in self.leaves()
        )

    def revoke(self) -> None:
        """Revoke all that have not ended."""
        for result in self.results:
            result.revoke()

    def forget(self) -> None:
        """Delete the records of all."""
        for result in self.results:
            result.forget()

    def failures(self) -> list[BaseException]:
        """The exceptions of those that have failed so far."""
        self._ended()
        finals = [leaf.final for leaf in self.leaves()]
        return [failure(final) for final in finals if final and final.state is not State.SUCCESS]

    def _ended(self) -> list[bool]:
        """Look at all that had not ended, in batched reads; whether each has."""
        leaves = self.leaves()
        open_ones = [leaf for leaf in leaves if leaf.final is None]
        if open_ones:
            records = open_ones[0].backend.records([leaf.id for leaf in open_ones])
            for leaf in open_ones:
                leaf.keep(records.get(leaf.id))
        return [leaf.final is not None for leaf in leaves]


class GroupResult(ResultSet[R]):
    """The results of a group's members, in their order; `parent` is what came before the group."""

    def __init__(
        self,
        id: str,
        results: Sequence[AsyncResult[R] | ResultSet[Any]],
        *,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
    ) -> None:
        super().__init__(results)
        self.id = id
        self.parent = parent

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self)}>"

    @property
    def children(self) -> list[AsyncResult[R] | ResultSet[Any]]:
        """The members' results."""
        return self.results

    def as_tuple(self) -> tuple[Any, ...]:
        """The ids of it all, nested as it is: `((id, parent), [members])`."""
        members = [as_tuple(result) for result in self.results]
        return (self.id, as_tuple(self.parent)), members

    def save(self) -> None:
        """Keep the ids in the result store, as long as results; `app.restore_group` by id."""
        leaves = self.leaves()
        if not leaves:
            raise InvalidArguments("an empty group has nothing to save")
        save_group(self, leaves[0].backend)


def as_tuple(result: AsyncResult[Any] | ResultSet[Any] | None) -> tuple[Any, ...] | None:
    """The ids of a result and its parents, as Celery's `as_tuple`: `((id, parent), members)`."""
    if isinstance(result, GroupResult):
        return cast("GroupResult[Any]", result).as_tuple()
    if isinstance(result, AsyncResult):
        plain = cast("AsyncResult[Any]", result)
        return (plain.id, as_tuple(plain.parent)), None
    return None


def from_tuple(ids: Any, make: Make) -> AnyResult | None:
    """The result that `as_tuple` took apart."""
    if ids is None:
        return None
    (id, above), members = ids
    parent = from_tuple(above, make)
    if members is None:
        result = make(str(id), "")
        result.parent = parent
        return result
    inside = [found for one in members if (found := from_tuple(one, make)) is not None]
    return GroupResult(str(id), inside, parent=parent)


Make = Callable[[str, str], AsyncResult[Any]]
"""Makes the result of a task: (id, task name)."""

AnyResult = AsyncResult[Any] | GroupResult[Any]


def save_group(result: GroupResult[Any], backend: Backend) -> None:
    """Keep the ids of a group's members."""
    fields = {"ids": orjson.dumps(result.as_tuple()).decode()}
    expires = backend.clock() + backend.expires
    failures = backend.put([Item(key=_group_key(result.id), fields=fields, expires=expires)])
    if failures:
        raise BackendError(f"the group was not saved: {failures[0].reason}", code=failures[0].code)


def restore_group(id: str, backend: Backend, make: Make) -> GroupResult[Any] | None:
    """The group that was saved under an id; None if there is none, or not any more."""
    found = backend.get([_group_key(id)]).get(_group_key(id))
    if found is None:
        return None
    return cast("GroupResult[Any]", from_tuple(orjson.loads(str(found.fields["ids"])), make))


def _group_key(id: str) -> Key:
    return Key(f"group#{id}")


def result_of(node: Node[Any], make: Make, parent: AnyResult | None = None) -> AnyResult:
    """The result of a frozen node, with those of what goes before as its parents."""
    if isinstance(node, chain):
        result = parent
        for step in node.tasks:
            result = result_of(step, make, result)
        assert result is not None
        return result
    if isinstance(node, chord):
        members = cast("group[Any]", node.header)
        header = group_result(str(node.id), members.tasks, make, parent)
        return result_of(node.body, make, header)
    if isinstance(node, group):
        return group_result(str(node.id), cast("group[Any]", node).tasks, make, parent)
    made = make(str(node.id), getattr(node, "task", ""))
    made.parent = parent
    return made


def group_result(
    id: str, members: Sequence[Node[Any]], make: Make, parent: AnyResult | None
) -> GroupResult[Any]:
    """The result of a group with these frozen members."""
    return GroupResult(id, [result_of(member, make) for member in members], parent=parent)
