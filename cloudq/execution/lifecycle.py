"""Calls the hooks and signal receivers of a call, in Celery's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

from cloudq import signals
from cloudq.driver.ends import Died
from cloudq.driver.log import Log
from cloudq.errors import DecodeError, Reject, Retry
from cloudq.execution.error_text import error_text
from cloudq.messages.body import arguments
from cloudq.messages.json_text import json_text
from cloudq.messages.message import TaskMessage
from cloudq.messages.redaction import Secrecy
from cloudq.results.outline import Outline, brief
from cloudq.results.record import State
from cloudq.tasks.hooks import ExceptionInfo
from cloudq.tasks.request import Context, Request
from cloudq.tasks.secrecy import hiding

if TYPE_CHECKING:  # not loaded in programs that only publish
    from cloudq.execution.outcomes import Job
    from cloudq.execution.settlement import Settlement
    from cloudq.tasks.task import Task

log = Log("cloudq.execution")


def is_watched(task: Task[..., Any]) -> bool:
    """Say if a hook or a receiver waits for the end of this task's calls."""
    # The tuples themselves, since this runs for every call.
    return bool(
        task.hooked
        or signals.task_postrun.connections
        or signals.task_success.connections
        or signals.task_failure.connections
        or signals.task_retry.connections
    )


def before(task: Task[..., Any], context: Context) -> None:
    """Send `task_prerun`, then call `before_start`, whose exception fails the task."""
    request = context.request
    if signals.task_prerun.connections:
        _tell(
            signals.task_prerun,
            task,
            task_id=request.id,
            task=task,
            args=context.args,
            kwargs=context.kwargs,
        )
    if task.hooked:
        task.before_start(request.id, context.args, context.kwargs)


def after(
    task: Task[..., Any], context: Context, settlement: Settlement, value: object, took: float
) -> None:
    """Call hooks and receivers after a call of `took` seconds that returned or raised `value`.

    The request is still current.
    """
    with hiding(settlement.hide):
        _after(task, context, settlement, value, took)


def _after(
    task: Task[..., Any], context: Context, settlement: Settlement, value: object, took: float
) -> None:
    request, args, kwargs = context.request, context.args, context.kwargs
    state = _state(settlement, value)
    error = settlement.error
    if state == State.SUCCESS:
        _hook(task.on_success, value, request.id, args, kwargs)
        if signals.task_success:
            _tell(signals.task_success, task, result=value, runtime=took)
    elif state == State.RETRY:
        text = error_text(value) if isinstance(value, BaseException) else str(value)
        reason = value if isinstance(value, Retry) else Retry(text, cause=error)
        einfo = ExceptionInfo(error or reason)
        _hook(task.on_retry, reason.cause, request.id, args, kwargs, einfo)
        if signals.task_retry:
            _tell(signals.task_retry, task, request=request, reason=reason, einfo=einfo)
        value = reason
    elif state == State.FAILURE and error is not None:
        _hook(task.on_failure, error, request.id, args, kwargs, ExceptionInfo(error))
        failed(task, request, error)
        value = error
    if state in (State.SUCCESS, State.FAILURE):
        _hook(task.after_return, state, value, request.id, args, kwargs, None)
    if signals.task_postrun:
        _tell(
            signals.task_postrun,
            task,
            task_id=request.id,
            task=task,
            args=args,
            kwargs=kwargs,
            retval=value,
            state=state,
        )


def failed(task: Task[..., Any], request: Request, error: BaseException) -> None:
    """Send `task_failure` for a call that failed for good, was stopped, or never began."""
    if signals.task_failure:
        _tell(
            signals.task_failure,
            task,
            task_id=request.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=error.__traceback__,
            einfo=ExceptionInfo(error),
        )


def lost(task: Task[..., Any], message: TaskMessage, error: BaseException) -> None:
    """Send `task_failure` for a call that does not run in this process."""
    failed(task, bare(message, task), error)


def received(task: Task[..., Any], request: Request) -> None:
    """Send `task_received` for a call that will run when there is room."""
    _tell(signals.task_received, task, request=request)


def revoked(task: Task[..., Any], request: Request, reason: str) -> None:
    """Send `task_revoked` for a call that is not run, or no more: revoked, expired, terminated."""
    terminated = reason == "terminated"
    signum = int(SIGTERM) if terminated else None
    expired = reason == "expired"
    _tell(
        signals.task_revoked,
        task,
        request=request,
        terminated=terminated,
        signum=signum,
        expired=expired,
    )


def rejected(body: bytes, error: BaseException) -> None:
    """Send `task_rejected` for an undecodable message, which is dead-lettered."""
    _tell(signals.task_rejected, None, message=body, exc=error)


def unknown(message: TaskMessage, error: BaseException) -> None:
    """Send `task_unknown` for a message whose task the app does not have; it is dead-lettered."""
    _tell(signals.task_unknown, None, message=message, exc=error, name=message.task, id=message.id)


def unmade(id: str, error: BaseException) -> None:
    """Log that the outcome of a call cannot be made."""
    _log("the outcome of task %s cannot be made", id, error)


def _log(text: str, about: object, error: BaseException) -> None:
    """Log an error of the user's. Whoever shows it calls its methods, which may end a process."""
    try:
        log.error(text, about, exc_info=error)
    except Died:
        raise
    except BaseException:
        log.error(text + "; its error cannot be shown", about)


def _state(settlement: Settlement, value: object) -> str:
    if settlement.state is not None:
        return settlement.state
    return State.REJECTED if isinstance(value, Reject) else "IGNORED"


def _tell(signal: signals.Signal, sender: object, **named: Any) -> None:
    """Call a signal's receivers. One that calls `sys.exit` ends neither a task nor a thread."""
    try:
        signal.send(sender, **named)
    except Died:
        raise
    except BaseException as error:
        _log("a receiver of %s tried to end the process", signal.name, error)


def _hook(hook: Callable[..., None], *given: Any) -> None:
    try:
        hook(*given)
    except Died:
        raise
    except BaseException as error:  # the user's code, after the end: the outcome stands
        _log("a hook raised: %r", hook, error)


def plain(
    message: TaskMessage,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    secrecy: Secrecy | None = None,
) -> Request:
    """Make the request of a call that does not run in this process."""
    return Request(
        id=message.id,
        task=message.task,
        args=args,
        kwargs=kwargs,
        queue=message.queue,
        retries=message.retries,
        root_id=message.root or message.id,
        parent_id=message.parent,
        group=message.group,
        headers=dict(message.headers),
        shadow=message.shadow,
        call=message.call,
        message=message,
        secrecy=secrecy,
    )


def bare(message: TaskMessage, task: Task[..., Any]) -> Request:
    """Make the request that signals carry for a call that does not run here."""
    try:
        args, kwargs = arguments(message)
    except DecodeError:  # the call will fail with it when it runs
        args, kwargs = message.args, message.kwargs
    return plain(message, args, kwargs, task.app.runtime.redaction.of(message.task))


def request_of(
    job: Job,
    call: tuple[Task[..., Any], Sequence[Any], Mapping[str, Any]],
    limits: tuple[float | None, float | None],
    *,
    hostname: str,
    is_eager: bool,
) -> Request:
    """Make the request of a job, whose task and arguments are read; soft and hard `limits`."""
    message = job.message
    task, args, kwargs = call
    soft, hard = limits
    return Request(
        id=message.id,
        task=task.name,
        args=args,
        kwargs=kwargs,
        queue=message.queue,
        retries=message.retries,
        attempts=job.delivery.attempts,
        rerun=job.fenced,
        root_id=message.root or message.id,
        parent_id=message.parent,
        group=message.group,
        eta=_datetime(message.not_before),
        expires=_datetime(message.expires),
        headers=dict(message.headers),
        depth=message.depth,
        slot=message.slot,
        shadow=message.shadow,
        call=message.call,
        message=message,
        fence=job.fence,
        progress=job.progress,
        children=[],
        asked=[],
        time_limit=hard,
        soft_time_limit=soft,
        hostname=hostname,
        is_eager=is_eager,
        secrecy=task.app.runtime.redaction.known.get(message.task),
    )


def with_children(settlement: Settlement, called: Sequence[Outline]) -> Settlement:
    """Add the ids of the calls that the task made, and of those that its end starts."""
    if not called and settlement.starts is None:
        return settlement
    started = [*called, *(settlement.starts.outlines if settlement.starts is not None else ())]
    if not started or settlement.record is None:
        return settlement
    children = json_text(brief(started)).decode()
    return replace(settlement, record=replace(settlement.record, children=children))


def _datetime(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
