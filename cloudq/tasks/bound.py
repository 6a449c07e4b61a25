"""The methods that a task's function calls on `self`: retry, replace, states, checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from cloudq.amounts import count
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError, InvalidArguments, MaxRetriesExceeded, Replaced, Retry
from cloudq.messages.values import to_wire
from cloudq.results.backend import Backend
from cloudq.results.record import own_state
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.call_arguments import by_name, positional
from cloudq.tasks.call_options import (
    CALLER_ONLY,
    CallOptions,
    Options,
    check_headers,
    checked_countdown,
    zoned,
)
from cloudq.tasks.checkpoints import Continued, load, recall, remember, save
from cloudq.tasks.options import Policy, spend_retries
from cloudq.tasks.request import Request, current_request
from cloudq.tasks.signature import Node
from cloudq.tasks.task_app import TaskApp

log = Log("cloudq.app")

T = TypeVar("T")

# The options that a next try has as the one before: what is sent again is the same call.
_UNCHANGED = frozenset({"task_id", "link", "link_error", "protocol"}) | CALLER_ONLY


class BoundTask:
    """The methods of a task for its own function, as `self`, while a call of it runs."""

    name: str
    policy: Policy
    arguments: Arguments
    _app: TaskApp

    @property
    def max_retries(self) -> int | None:
        """The number of retries that a call may have; None for no limit."""
        return self.policy.retries(self._app.runtime.conf.max_retries)

    @property
    def request(self) -> Request:
        """The call that is running; of a task called as a function, `called_directly` is true."""
        request = current_request.get()
        if request is None or request.task != self.name:
            return Request(id="", task=self.name, called_directly=True)
        return request

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None
    ) -> None:
        """Record a state of your own, or progress, of the running call (or of `task_id`).

        `result.state` and `result.info` show both until the next state is recorded. One write to
        the store; nothing happens without one. A state that ends a task cannot be set: a task
        ends by returning or raising. Raises `InvalidArguments`, `EncodeError`, `BackendError`.
        """
        request = self.request
        if task_id is None and request.called_directly:
            raise InvalidArguments(f"{self.name}.update_state: no call is running: give task_id=")
        fence = request.fence if task_id in (None, request.id) else -1
        record_state(self._app.runtime, task_id or request.id, fence, state or "STARTED", meta)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """End this try and have the task run again later: `raise self.retry()`.

        `args` and `kwargs` replace the arguments, `options` those of the call. Raises, so that
        nothing after it runs; with `throw=False` it returns, and the task is retried when the
        function ends, whatever it returns or raises. Raises `exc`, or `MaxRetriesExceeded`
        without one, when no retries are left; called outside of a worker, `exc` itself. A
        `max_retries` given here counts for `autoretry_for` too, which sees what is raised. Raises
        `InvalidArguments` for a time that is none, or more than ten years away.
        """
        request = self.request
        if max_retries is not None:
            count(max_retries, "max_retries of a retry")
        allowed = self.max_retries if max_retries is None else max_retries
        if request.called_directly:
            raise exc or Retry(
                f"{self.name} was called as a function: only a call through a queue is retried"
            )
        if eta is not None:
            due = zoned(eta, self._app.runtime.zone)
            countdown = max(0.0, due.timestamp() - self._app.runtime.clock())
        if countdown is not None:
            countdown = checked_countdown(countdown)
        if allowed is not None and request.retries >= allowed:
            error = exc or MaxRetriesExceeded(
                f"{self.name} was retried {request.retries} times and may not be again",
                task_args=tuple(request.args),
                task_kwargs=dict(request.kwargs),
            )
            if max_retries is not None:
                spend_retries(request.id, error)
            raise error
        given: Any = options
        retry = Retry(
            str(exc or "retry"),
            countdown=countdown,
            cause=exc,
            max_retries=max_retries,
            changes=self._changes(request, args, kwargs, given),
        )
        if not throw:
            request.asked[:] = [retry]
            return retry
        raise retry from exc

    def _changes(
        self,
        request: Request,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: CallOptions,
    ) -> dict[str, Any]:
        """Return the fields of the message that change in the next try."""
        changes: dict[str, Any] = {}
        if args is not None or kwargs is not None:
            plain, named = self.arguments.sendable(
                request.args if args is None else positional(args),
                request.kwargs if kwargs is None else by_name(kwargs),
            )
            changes["args"] = [to_wire(arg) for arg in plain]
            changes["kwargs"] = {name: to_wire(value) for name, value in named.items()}
        if options:
            made = Options.of(options)
            unusable = _UNCHANGED & options.keys()
            if unusable:
                raise InvalidArguments(f"{self.name}.retry: {min(unusable)} cannot be changed")
            check_headers(options.get("headers"), f"{self.name}.retry")
            changes |= options
            if "expires" in options:
                changes["expires"] = made.expiry(
                    self._app.runtime.clock(), None, self._app.runtime.zone
                )
        return changes

    def replace(self, node: Node[Any]) -> NoReturn:
        """End this call and run a workflow in its place: its value is this task's value.

        Always raises. What follows this task follows the workflow, and its id becomes that of
        the workflow's last task. Raises `InvalidArguments` for what is no signature.
        """
        if not isinstance(node, Node):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(node).__name__
            raise InvalidArguments(
                f"{self.name}: replace() takes a signature or a workflow, not a {kind}: "
                "give other_task.s(...), or return the value"
            )
        raise Replaced(node)

    def add_to_chord(self, node: Node[Any]) -> AsyncResult[Any]:
        """Add a member to the header of the chord that this task is a member of, and send it."""
        return self._app.add_to_chord(node)

    def once(self, step: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do a step of this call once: later tries get the value that it had.

        The value is recorded before the task goes on, as JSON; an error is not. A process that
        dies between the step and the record does it again. Two requests, one once it is done.
        """
        request, backend = self.request, self._kept("once")
        if backend is None:
            return function(*args, **kwargs)
        done, value = recall(backend, request.kept_as, step)
        return (
            value if done else remember(backend, request.kept_as, step, function(*args, **kwargs))
        )

    async def aonce(
        self, step: str, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any
    ) -> T:
        """Do the same as `once` for a step that is a coroutine function."""
        from asyncio import to_thread

        request, backend = self.request, self._kept("once")
        if backend is None:
            return await function(*args, **kwargs)
        done, value = await to_thread(recall, backend, request.kept_as, step)
        if done:
            return value
        value = await function(*args, **kwargs)
        return await to_thread(remember, backend, request.kept_as, step, value)

    def checkpoint(self, state: object) -> None:
        """Save the state of this call, for `resume` to continue from; one request.

        In a cloud function whose time is about to end it does not return: a new message with the
        same id continues the call in another invocation.
        """
        request, backend = self.request, self._kept("checkpoint")
        if backend is None:
            return
        save(backend, request.kept_as, request.fence, state)
        if request.progress is not None and not request.progress.step():
            raise Continued(f"{self.name} continues in another invocation")

    def resume(self, default: T) -> T:
        """Return the state that an earlier try saved last, or `default`; one request."""
        request, backend = self.request, self._kept("resume")
        return default if backend is None else load(backend, request.kept_as, default)

    def _kept(self, method: str) -> Backend | None:
        """Return the result backend; None for an eager call of an app without one."""
        backend = self._app.runtime.backend
        if backend is None and not self.request.is_eager:
            raise ConfigurationError(
                f"{self.name}: self.{method} needs the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return backend


def record_state(runtime: Runtime, task_id: str, fence: int, state: str, meta: Any) -> None:
    """Record a state of a task's own, for `self.update_state`.

    A negative fence stands for the fence in the task's record. Raises as `update_state`.
    """
    request = current_request.get()
    call = request.call if request is not None and request.id == task_id else None
    record = own_state(task_id, fence, state, meta, call)
    backend = runtime.backend
    if backend is None or (request is not None and request.is_eager):
        return
    if fence < 0:  # another task's, whose token only its record has
        known = backend.record(task_id)
        record = replace(
            record, fence=known.fence if known else 0, call=known.call if known else None
        )
    standing = backend.advance(record)
    if standing is not None:
        log.warning(
            "task %s: the state %s is not recorded, since the task is already %s",
            task_id,
            state,
            standing.state,
        )
