"""Facts about one enqueued Django task, kept with its result, and the `TaskResult` made of them."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from django.utils.timezone import make_naive

from cloudq.app import CloudQ
from cloudq.driver import Item, Key
from cloudq.errors import BackendError
from cloudq.messages.json_text import check_levels
from cloudq.messages.values import load_value
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State
from cloudq.tasks.request import Request

_exceptions: Any = import_module("django.tasks.exceptions")
base: Any = import_module("django.tasks.base")  # untyped, and not there before Django 6

HEADER = "django-task"
# A try of a call counts this much in its fence; the deliveries of a try are the rest.
_TRY = 1 << 20
_STATUS = {
    State.PENDING: "READY",
    State.RETRY: "READY",
    State.STARTED: "RUNNING",
    State.SUCCESS: "SUCCESSFUL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One enqueued task: what Django gave with it. Times are epoch seconds."""

    id: str
    path: str
    backend: str
    queue: str
    priority: int
    run_after: float | None
    enqueued_at: float | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def header(self) -> str:
        """The value of the message's header, which has all but what a message has anyway."""
        return json.dumps(
            [self.backend, self.queue, self.priority, self.run_after, self.enqueued_at]
        )

    @classmethod
    def of_request(cls, request: Request) -> Call:
        """Read the call of a running task; one that was not sent by Django has no time."""
        given = request.headers.get(HEADER)
        backend, queue, priority, run_after, enqueued_at = (
            json.loads(given) if given else ("default", "default", 0, None, None)
        )
        return cls(
            id=request.id,
            path=request.task,
            backend=backend,
            queue=queue,
            priority=priority,
            run_after=run_after,
            enqueued_at=enqueued_at,
            args=request.args,
            kwargs=request.kwargs,
        )

    def keep(self, store: Backend) -> None:
        """Store the call, so that its result can be asked for. Raises `BackendError`."""
        check_levels([*self.args, *self.kwargs.values()])
        known_for = max(self.run_after or 0.0, store.clock()) + store.expires
        fields = {
            "path": self.path,
            "header": self.header,
            "given": json.dumps([self.args, self.kwargs]),
        }
        refused = store.put([Item(key=_key(self.id), fields=fields, expires=known_for)])
        if refused:
            raise BackendError(f"the call is not stored: {refused[0].reason}", code=refused[0].code)

    @classmethod
    def kept(cls, store: Backend, id: str) -> Call | None:
        """Return the call of this id; None if there was none, or none is known any more."""
        item = store.get([_key(id)]).get(_key(id))
        if item is None:
            return None
        backend, queue, priority, run_after, enqueued_at = json.loads(str(item.fields["header"]))
        args, kwargs = json.loads(str(item.fields["given"]))
        return cls(
            id=id,
            path=str(item.fields["path"]),
            backend=backend,
            queue=queue,
            priority=priority,
            run_after=run_after,
            enqueued_at=enqueued_at,
            args=args,
            kwargs=kwargs,
        )

    def forget(self, store: Backend) -> None:
        """Delete what was kept."""
        store.delete([_key(self.id)])

    def task(self) -> Any:
        """Return Django's task as it was enqueued, or as it is where that may not be any more.

        Raises `ImportError` if it is in the code no more.
        """
        task: Any = import_string(self.path)
        try:
            return task.using(
                priority=self.priority,
                queue_name=self.queue,
                run_after=moment(self.run_after),
                backend=self.backend,
            )
        except (_exceptions.InvalidTask, _exceptions.InvalidTaskBackend):
            return task  # the settings have other queues by now

    def result(self, task: Any, status: str, **more: Any) -> Any:
        """Return Django's result of this call with this status."""
        facts: dict[str, Any] = {
            "started_at": None,
            "finished_at": None,
            "last_attempted_at": None,
            "errors": [],
            "worker_ids": [],
        }
        return base.TaskResult(
            task=task,
            id=self.id,
            status=base.TaskResultStatus(status),
            enqueued_at=moment(self.enqueued_at),
            args=[*self.args],
            kwargs={**self.kwargs},
            backend=self.backend,
            **(facts | more),
        )

    def recorded(self, task: Any, record: Record) -> Any:
        """Return Django's result of this call as its record has it."""
        status = _STATUS.get(record.state, "FAILED")
        attempts = record.fence // _TRY + record.fence % _TRY
        known = [record.worker] if record.worker else []
        more: dict[str, Any] = {
            "started_at": moment(record.started_at),
            "last_attempted_at": moment(record.started_at),
            "finished_at": moment(record.finished_at),
            # Of earlier deliveries no more is known than that there were some.
            "worker_ids": ["unknown"] * (attempts - len(known)) + known,
            "errors": [_error(record)] if status == "FAILED" else [],
        }
        made = self.result(task, status, **more)
        if status == "SUCCESSFUL":
            set_value(made, load_value(record.value) if record.value else None)
        return made


def set_value(result: Any, value: object) -> None:
    """Put the value into a result, which Django makes without one."""
    object.__setattr__(result, "_return_value", value)


def moment(at: float | None) -> datetime | None:
    """Return a time as Django's models have it: naive where the project has no time zones."""
    if at is None:
        return None
    aware = datetime.fromtimestamp(at, UTC)
    return aware if settings.USE_TZ else make_naive(aware)


def error_of(kind: str, text: str) -> Any:
    """Return Django's error for the class of an exception and its traceback."""
    path = kind if "." in kind else f"builtins.{kind}"
    return base.TaskError(exception_class_path=path, traceback=text)


def _error(record: Record) -> Any:
    kinds = {State.REVOKED: "cloudq.errors.TaskRevoked", State.REJECTED: "cloudq.errors.Reject"}
    kind = record.error_type or kinds.get(record.state, "cloudq.errors.TaskFailure")
    return error_of(kind, record.traceback or record.error or "")


def _key(id: str) -> Key:
    return Key(f"django#{id}")


def call_of(app: CloudQ, id: str) -> Call | None:
    """Return the call of this id from the app's store; None where there is none."""
    store = app.backend
    return None if store is None else Call.kept(store, id)
