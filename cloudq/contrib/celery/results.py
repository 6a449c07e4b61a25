"""Results as Celery's users know them, and the makers of results that an app has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cloudq.app.shared_task import APPS
from cloudq.errors import ChordError, InvalidArguments
from cloudq.results import groups, result
from cloudq.results.eager import EagerResult
from cloudq.results.groups import ResultSet
from cloudq.results.lineage import parents_of
from cloudq.results.record import Record, State, failure

# Parts of Celery's results that have no counterpart, and why.
REFUSED = {
    "graph": "`cloudq graph ID` draws what belongs to a task",
    "build_graph": "`cloudq graph ID` draws what belongs to a task",
    "on_ready": "give then() what is to be called",
    "revoke_by_stamped_headers": "app.control.revoke_by_stamped_headers revokes by headers",
}


class NoId(ValueError, InvalidArguments):
    """A result was asked for without an id."""


def check_id(id: Any) -> None:
    """Raise `ValueError` for None."""
    if id is None:
        raise NoId("a result's id is None: give that of a call")


class AsyncResult(result.AsyncResult[Any]):
    """A result as Celery's: it can be pickled, and what is ignored is None at once."""

    def keep(self, record: Record | None) -> Record:
        """Keep the end of the call; one whose task raised `Reject` has failed with that."""
        if record is not None and record.state == State.REJECTED:
            record = replace(record, state=State.FAILURE, error_type="cloudq.errors.Reject")
        return super().keep(record)

    @property
    def result(self) -> Any:
        """The value or the exception; between two tries the exception of the last one."""
        record = self.record
        return failure(record) if record.state == State.RETRY else super().result

    @property
    def info(self) -> Any:
        """The same as `result`; of a state of the program's own, what it was given."""
        return self.result if self.record.state == State.RETRY else super().info

    def end_unrecorded(self) -> Record:
        return Record(id=self.id, state=State.SUCCESS, task=self.task)

    @property
    def app(self) -> Any:
        """The current app."""
        return APPS.current()

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise AttributeError(f"a result has no {name}: {REFUSED[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get(self, *args: Any, **options: Any) -> Any:
        """Wait for the value, as the core's; of a failed chord raise what its member raised.

        With `follow_parents=False` that is a `ChordError`.
        """
        try:
            return super().get(*args, **options)
        except ChordError:
            if options.get("follow_parents", True):
                for each in reversed(parents_of(self)):
                    if each.member_tuples() is not None:
                        each.maybe_throw()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.id, self.parent, self.ignored, self.call)


def _unpickled(id: str, parent: Any, ignored: bool, call: str | None) -> Any:
    """Make the result of the app that is current where it is read."""
    app: Any = APPS.current()
    made = app.AsyncResult(id)
    made.parent, made.ignored, made.call = parent, ignored, call
    return made


class GroupMakers:
    """`app.GroupResult`: makes the result of a group, and `restore` finds a saved one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(
        self, id: Any = None, results: Sequence[Any] | None = None, parent: Any = None
    ) -> groups.GroupResult[Any]:
        return groups.GroupResult(id, list(results or ()), parent=parent)

    def restore(self, id: str, backend: None = None) -> groups.GroupResult[Any] | None:
        """Return the group saved under an id, None if there is none."""
        return self._app.restore_group(id)


class ResultMakers:
    """The makers of results that an app has: `AsyncResult`, `GroupResult` and `ResultSet`."""

    _results: Any

    def AsyncResult(  # noqa: N802 (Celery's name)
        self, id: str, backend: None = None, task_name: str | None = None, parent: Any = None
    ) -> result.AsyncResult[Any]:
        """Return the result of a task by its id. Raises `ValueError` for what is none."""
        check_id(id)
        made = self._results.untyped(id)
        made.parent = parent
        return made

    @property
    def GroupResult(self) -> GroupMakers:  # noqa: N802
        """Makes the result of a group from its id and its members' results."""
        return GroupMakers(self)

    def ResultSet(self, results: Iterable[Any] = ()) -> ResultSet[Any]:  # noqa: N802
        """Return results that are waited for together."""
        return ResultSet(results)


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """Return the result of which `as_tuple` gave this; a result is returned as it is."""
    made: Any = app or APPS.current()
    given = getattr(r, "as_tuple", None)
    return r if given is not None else groups.from_tuple(r, made.AsyncResult)


class _Eager(type):
    def __call__(
        cls,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> EagerResult[Any]:
        if state not in set(State):
            raise InvalidArguments(f"an eager result of the state {state!r}: give one of states")
        ended = Record(id=id, state=State(state), task=name or "", traceback=traceback)
        if isinstance(ret_value, BaseException):
            return EagerResult(ended, error=ret_value)
        return EagerResult(ended, restore=lambda _: ret_value)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, EagerResult)


class CeleryEagerResult(EagerResult[Any], metaclass=_Eager):
    """The result of a call that ran where it was made."""
