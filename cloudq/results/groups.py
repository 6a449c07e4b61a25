"""Handles on workflows, with the results of their members and parents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

from cloudq.driver import Item, Key
from cloudq.errors import BackendError, InvalidArguments
from cloudq.messages.json_text import json_text
from cloudq.results.backend import Backend
from cloudq.results.lineage import paired, parents_of, revoked_of
from cloudq.results.looks import read_all
from cloudq.results.names import OnEnd, SetNames, Told, told_between
from cloudq.results.outline import Outline, add_row, checked, from_json, outlines_in, to_json
from cloudq.results.record import Record, State, failure
from cloudq.results.result import AsyncResult, wait_for
from cloudq.results.stored import json_in, reading
from cloudq.results.terminate import Signal, Termination, actions_of

R = TypeVar("R")


class ResultSet(SetNames, Generic[R]):
    """Results that are waited for together. Each look at them is one batched read."""

    def __init__(self, results: Iterable[AsyncResult[R] | ResultSet[Any]]) -> None:
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

    def add(self, result: AsyncResult[R] | ResultSet[Any]) -> None:
        """Take in one more result, if it is not there."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: AsyncResult[R] | ResultSet[Any]) -> None:
        """Remove a result. Raises `KeyError` if it is not in the set."""
        if result not in self.results:
            raise KeyError(result)
        self.results.remove(result)

    def leaves(self) -> list[AsyncResult[Any]]:
        """Return the results of tasks, also those of nested sets."""
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
        callback: OnEnd | None = None,
        no_ack: bool = True,
        on_message: Told | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Wait for all; their values in their order.

        Raises what the first failed one raised, `ResultTimeout`, or within a task `WaitInTask`,
        as `AsyncResult.get`; with `propagate=False` exceptions stand in the place of values.
        A `callback` gets each id and value instead, and the list is empty.
        """
        given, leaves = disable_sync_subtasks, self.leaves()
        wait = partial(wait_for, leaves, interval=interval, disable_sync_subtasks=given)
        told_between(wait, timeout, interval, on_interval)
        if on_message is not None:
            for leaf in leaves:
                leaf.tell(on_message)
        values: list[Any] = []
        for result in self._members():
            value = result.get(0, propagate, disable_sync_subtasks=given)
            if callback is None:
                values.append(value)
            else:
                callback(result.id, value)
        return values

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._awaited().__await__()

    async def _awaited(self) -> list[Any]:
        """Wait for all, without blocking the event loop; their values in their order, or raise."""
        from asyncio import gather

        # Those that wait at the same time are looked at in the same reads.
        await gather(*self.leaves(), return_exceptions=True)
        return [await result for result in self.results]

    def _members(self) -> list[Any]:
        return self.results

    def ready(self) -> bool:
        """True when all have ended."""
        return all(self._ended())

    def successful(self) -> bool:
        """True when all have succeeded."""
        return self.completed_count() == len(self.leaves())

    def failed(self) -> bool:
        """True when any has failed."""
        self._ended()
        return any(leaf.failed() for leaf in self.leaves())

    def waiting(self) -> bool:
        """True while any has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """The number of results that have succeeded."""
        self._ended()
        return sum(
            leaf.final is not None and leaf.final.state is State.SUCCESS for leaf in self.leaves()
        )

    def revoke(
        self,
        *,
        terminate: bool = False,
        signal: Signal = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Revoke all that have not ended, at one write each; the options are a result's.

        With `terminate` the workers are told of all of them in one command.
        """
        termination = Termination.of(signal, wait=wait, timeout=timeout)
        leaves = self.leaves()
        tell = actions_of(leaves[0]).terminate if terminate and leaves else None
        revoked = self.revoke_all()
        if tell is not None and revoked:
            tell(revoked, termination)

    def revoke_all(self) -> list[str]:
        """Revoke them without telling workers; return the ids of those that had not ended."""
        return [id for result in self.results for id in result.revoke_all()]

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
            records = read_all(open_ones[0].backend, open_ones)
            for leaf in open_ones:
                leaf.keep(records.get(leaf.id))
        return [leaf.final is not None for leaf in leaves]


class GroupResult(ResultSet[R]):
    """The results of a group's members, in order; `parent` is the result of the step before it."""

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
        self.upstream: Any = None
        if parent is not None:
            for result in results:
                _stand_after(result, parent)

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self)}>"

    def __str__(self) -> str:
        return self.id

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the result of the same group, or its id."""
        if isinstance(other, GroupResult):
            found: Any = cast("Any", other)
            return found.id == self.id and found.results == self.results
        return other == self.id if isinstance(other, str) else NotImplemented

    @property
    def children(self) -> list[AsyncResult[R] | ResultSet[Any]]:
        """The members' results."""
        return self.results

    def as_tuple(self) -> tuple[Any, ...]:
        """Return all ids, nested like the group: `((id, parent), [members])`."""
        return paired(self)

    def member_tuples(self) -> list[tuple[Any, ...] | None]:
        """Return the ids of the members, as `as_tuple` gives them."""
        return [as_tuple(result) for result in self.results]

    def revoke_all(self) -> list[str]:
        """Revoke the members and the parents that have not ended, without telling workers."""
        return revoked_of(self)

    def revoke_own(self, marked: Record | None = None) -> list[str]:
        """Revoke the members alone; return the ids of those that had not ended."""
        return super().revoke_all()

    def save(self) -> None:
        """Store the ids for as long as results are kept; `app.restore_group` finds them by id."""
        leaves = self.leaves()
        if not leaves:
            raise InvalidArguments("an empty group has nothing to save")
        save_group(self, leaves[0].backend)

    def delete(self) -> None:
        """Delete what `save` stored."""
        for leaf in self.leaves()[:1]:
            leaf.backend.delete([_group_key(self.id)])

    @staticmethod
    def restore(id: str, app: Any) -> GroupResult[Any] | None:
        """The group that was saved under an id in the store of `app`, a `CloudQ`.

        None if there is none, or not any more.
        """
        return app.restore_group(id)


def _stand_after(result: Any, upstream: Any) -> None:
    """Set `upstream` of the first step in a member: it never starts if that result fails."""
    while result.parent is not None:
        result = result.parent
    result.upstream = upstream
    if isinstance(result, GroupResult):
        for member in cast("GroupResult[Any]", result).results:
            _stand_after(member, upstream)


def as_tuple(result: AsyncResult[Any] | ResultSet[Any] | None) -> tuple[Any, ...] | None:
    """The ids of a result and its parents, as Celery's `as_tuple`: `((id, parent), members)`."""
    return result.as_tuple() if isinstance(result, AsyncResult | GroupResult) else None


def outline_of(result: AnyResult) -> Outline:
    """Return the ids of a result, of its parents and of its members."""
    rows: Outline = []
    _add(rows, result)
    return rows


def _add(rows: Outline, result: Any) -> int:
    before: int | None = None
    for each in reversed([result, *parents_of(result)]):
        grouped = isinstance(each, ResultSet)
        inside = [_add(rows, one) for one in cast("Any", each).results] if grouped else None
        before = add_row(rows, each.id, before, inside)
    return cast("int", before)


def from_tuple(ids: Any, make: Make) -> AnyResult | None:
    """Rebuild a result from the ids that `as_tuple` returned, or from an outline as JSON."""
    return None if ids is None else _restored(from_json(ids), make)


def _restored(rows: Outline, make: Make) -> AnyResult:
    made: list[AnyResult] = []
    for id, above, members in rows:
        parent = None if above is None else made[above]
        if members is not None:
            made.append(GroupResult(id, [made[one] for one in members], parent=parent))
            continue
        result = make(id)
        result.parent = parent
        made.append(result)
    return made[-1]


Make = Callable[[str], AsyncResult[Any]]
"""Makes the result of a task, by its id."""

AnyResult = AsyncResult[Any] | GroupResult[Any]


def restored(outlines: str, make: Make) -> list[Any]:
    """Make the results of which a record keeps the ids."""
    return [_restored(outline, make) for outline in outlines_in(outlines)]


def save_group(result: GroupResult[Any], backend: Backend) -> None:
    """Store the ids of a group's members."""
    fields = {"ids": json_text(to_json(outline_of(result))).decode()}
    expires = backend.clock() + backend.expires
    failures = backend.put([Item(key=_group_key(result.id), fields=fields, expires=expires)])
    if failures:
        raise BackendError(f"the group was not saved: {failures[0].reason}", code=failures[0].code)


def restore_group(id: str, backend: Backend, make: Make) -> GroupResult[Any] | None:
    """Return the group saved under an id; None if there is none."""
    outline = group_outline(id, backend)
    return None if outline is None else cast("GroupResult[Any]", _restored(outline, make))


def group_outline(id: str, backend: Backend) -> Outline | None:
    """Return the ids of a saved group; None if there is none."""
    found = backend.get([_group_key(id)]).get(_group_key(id))
    if found is None:
        return None
    with reading(found.key):
        return checked(from_json(json_in(found, "ids")))


def _group_key(id: str) -> Key:
    return Key(f"group#{id}")
