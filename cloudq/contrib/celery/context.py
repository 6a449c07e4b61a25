"""The failed call, its exception and its traceback, as error callbacks get them in Celery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cloudq.errors import BackendError, CloudQError
from cloudq.messages.values import from_wire
from cloudq.results.record import Record, State, failure
from cloudq.runtime import Runtime

# The keys that a failed call has where an error callback gets it, the first three always.
_ALWAYS = ("id", "task", "retries")
_KNOWN = frozenset({*_ALWAYS, "args", "kwargs", "queue", "root_id", "parent_id"})


class Context:
    """A call as an error callback gets it: its fields are attributes; those unknown are None."""

    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    callbacks: Sequence[Any] | None = None
    called_directly: bool = False
    chain: Sequence[Any] | None = None
    chord: Any = None
    delivery_info: Mapping[str, Any] | None = None
    errbacks: Sequence[Any] | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    group: str | None = None
    group_index: int | None = None
    headers: Mapping[str, Any] | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool = False
    is_eager: bool = False
    origin: str | None = None
    parent_id: str | None = None
    properties: Mapping[str, Any] | None = None
    queue: str | None = None
    replaced_task_nesting: int = 0
    reply_to: str | None = None
    retries: int = 0
    root_id: str | None = None
    shadow: str | None = None
    soft_time_limit: float | None = None
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] | None = None
    task: str | None = None
    taskset: str | None = None
    time_limit: float | None = None
    timelimit: Sequence[float | None] | None = None
    utc: bool | None = None

    def __init__(self, *given: Mapping[str, Any], **fields: Any) -> None:
        self.update(*given, **fields)

    @property
    def correlation_id(self) -> str | None:
        """The id of the call."""
        return self.id

    @property
    def children(self) -> list[Any]:
        """The calls that it made: none is known here."""
        return []

    def update(self, *given: Mapping[str, Any], **fields: Any) -> None:
        """Set fields."""
        vars(self).update(*given, **fields)

    def clear(self) -> None:
        """Forget all fields."""
        vars(self).clear()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, or the default if there is none of this name."""
        return getattr(self, key, default)

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"


def with_error(args: tuple[Any, ...], runtime: Runtime, *, stored: bool) -> tuple[Any, ...]:
    """Return the arguments of a call; those of an error callback as Celery has them.

    They are a failed call, its exception and its traceback as text. With `stored` the exception is
    made of the call's record: one request; without a record, of its class and its text.
    """
    if len(args) < 3 or not _is_failed_call(args[0]) or not isinstance(args[1], str):
        return args
    given, told, traceback = args[:3]
    request = Context(given)
    request.args = [from_wire(arg) for arg in given.get("args", ())]
    request.kwargs = {name: from_wire(arg) for name, arg in given.get("kwargs", {}).items()}
    request.delivery_info = {"exchange": "", "routing_key": request.queue, "redelivered": False}
    record = _record(runtime, str(request.id)) if stored else None
    if record is None or record.state not in (State.FAILURE, State.REVOKED):
        kind, _, text = told.partition(": ")
        record = Record(id=str(request.id), state=State.FAILURE, error_type=kind, error=text)
    return (request, failure(record), traceback, *args[3:])


def _is_failed_call(given: Any) -> bool:
    if type(given) is not dict:
        return False
    names: list[Any] = [*given]
    return tuple(names[:3]) == _ALWAYS and _KNOWN.issuperset(names)


def _record(runtime: Runtime, task_id: str) -> Record | None:
    try:
        return runtime.backend.record(task_id) if runtime.backend is not None else None
    except (BackendError, CloudQError):  # the callback is called all the same
        return None
