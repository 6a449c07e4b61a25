"""Runs Django's tasks in a worker, and sends Django's signals of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, update_wrapper
from importlib import import_module
from traceback import format_exception
from typing import Any

from cloudq import signals
from cloudq.app.shared_task import shared_task
from cloudq.contrib.django.conf import project_app
from cloudq.contrib.django.task_results import (
    Call,
    base,
    call_of,
    error_of,
    moment,
    set_value,
)
from cloudq.execution.error_text import name_of
from cloudq.tasks.request import Request, current_request
from cloudq.tasks.task import Task

_signals: Any = import_module("django.tasks.signals")
_normalized: Any = import_module("django.utils.json").normalize_json
_NAMES = ("__module__", "__name__", "__qualname__", "__doc__")


class DjangoTask(Task[..., Any]):
    """A task of Django's: its calls send `task_started` and `task_finished`."""

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Send Django's signal `task_started`."""
        tell("task_started", _running(_request()))

    def on_success(
        self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Send Django's signal `task_finished`."""
        result = _running(_request())
        set_value(result, retval)
        tell("task_finished", result, status="SUCCESSFUL", finished_at=now())


@cache
def carrier(function: Callable[..., Any]) -> Any:
    """Return the task of cloudq, of all apps, that runs a function of Django's tasks.

    Its arguments are not checked against the function's hints: Django does not do that either.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        return _normalized(function(*_given(args), **kwargs))

    async def arun(*args: Any, **kwargs: Any) -> Any:
        return _normalized(await function(*_given(args), **kwargs))

    made = arun if inspect.iscoroutinefunction(function) else run
    update_wrapper(made, function, assigned=_NAMES)
    del vars(made)["__wrapped__"]  # else the function's own parameters would be checked
    name = f"{function.__module__}.{function.__qualname__}"
    return shared_task(name=name, base=DjangoTask, track_started=True)(made)


def _given(args: Sequence[Any]) -> Sequence[Any]:
    """Return the arguments of the running task, with its context where it takes one."""
    result = _running(_request())
    return (base.TaskContext(task_result=result), *args) if result.task.takes_context else args


def _request() -> Request:
    request = current_request.get()
    assert request is not None  # only an executor calls these
    return request


def _running(request: Request) -> Any:
    """Return the result of the running task as it is now."""
    call = Call.of_request(request)
    earlier = ["unknown"] * (request.retries + request.attempts - 1)
    started = now()
    return call.result(
        call.task(),
        "RUNNING",
        started_at=started,
        last_attempted_at=started,
        worker_ids=[*earlier, request.hostname],
    )


def now() -> datetime | None:
    """Return the time as Django's models have it."""
    return moment(datetime.now(UTC).timestamp())


def tell(signal: str, result: Any, **changes: Any) -> None:
    """Send a signal of Django's with a result, changed; what a receiver raises is logged there."""
    for name, value in changes.items():
        made = base.TaskResultStatus(value) if name == "status" else value
        object.__setattr__(result, name, made)
    backend: object = result.task.get_backend()
    getattr(_signals, signal).send_robust(sender=backend.__class__, task_result=result)


# ---- the ends of calls that failed, also where they never ran or their process died


def _failed(*, sender: Any, task_id: str, exception: BaseException, **_more: Any) -> None:
    if not isinstance(sender, DjangoTask):
        return
    request = current_request.get()
    if request is not None and request.id == task_id:
        result = _running(request)
    else:
        result = _stored(task_id)
    if result is not None:
        text = "".join(format_exception(exception))
        result.errors.append(error_of(name_of(exception), text))
        tell("task_finished", result, status="FAILED", finished_at=now())


def _revoked(*, sender: Any, request: Request, **_more: Any) -> None:
    if isinstance(sender, DjangoTask):
        call = Call.of_request(request)
        result = call.result(call.task(), "FAILED", finished_at=now())
        result.errors.append(error_of("cloudq.errors.TaskRevoked", "revoked, or expired"))
        tell("task_finished", result)


def _stored(id: str) -> Any:
    call = call_of(project_app(), id)
    return None if call is None else call.result(call.task(), "FAILED")


def listen() -> None:
    """Have Django's signals sent for the ends that no hook is told of."""
    signals.task_failure.connect(_failed, dispatch_uid="cloudq.contrib.django")
    signals.task_revoked.connect(_revoked, dispatch_uid="cloudq.contrib.django")
