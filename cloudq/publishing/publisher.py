"""Publishes calls: unique ones once, delayed ones with a note of their place for revoking."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from cloudq.broker.one_time import fires_at
from cloudq.broker.retry import PublishPolicy
from cloudq.errors import BackendError, ConfigurationError, InvalidArguments
from cloudq.messages.ids import new_id
from cloudq.messages.message import TaskMessage
from cloudq.publishing.builder import MessageBuilder
from cloudq.publishing.results import ResultFactory
from cloudq.results.call_marks import Marks
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime
from cloudq.tasks.call_arguments import call_arguments
from cloudq.tasks.call_options import Options
from cloudq.tasks.limits.rules import Throttle, need_store
from cloudq.tasks.limits.unique import Sent, Uniques
from cloudq.tasks.request import current_request
from cloudq.tasks.task import Prepared, Task

log = logging.getLogger("cloudq.app")

R = TypeVar("R")


class Publisher:
    """Publishes the calls of one app. `tasks` may grow."""

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        builder: MessageBuilder,
        results: ResultFactory,
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self.builder = builder
        self.results = results
        self.marks = Marks(runtime.clock)

    def send(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[R]:
        """Publish one call of a task, as `task.delay` and `task.apply_async` do.

        One with callbacks is a workflow of one task; an eager app runs the call here and now.
        Raises `InvalidArguments`, `EncodeError`, `BrokerError`.
        """
        if options.link or options.link_error:
            return task.app.start(task.linked(options, args, kwargs), (), {})
        if self._runtime.conf.task_always_eager:
            return self._at_once(task, options, args, kwargs)
        message = self._marked(self.builder.of_call(task, options, args, kwargs), options)
        if message.unique_key is not None:
            [sent] = self._send_unique([message], [options])
            _keep_children([sent.id])
            return self.results.called(sent, task)
        if options.retry is None and options.retry_policy is None and message.not_before is None:
            if task.policy.throttle is not None:
                self._refuse_unkept(message)
            self._runtime.broker.send((message,))
        else:
            self._send_all([message], [options])
        _keep_children([message.id])
        return self.results.called(message, task)

    def copied(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Check and write the arguments of a call, and return them as a message has them.

        Raises as `send`, but for the broker.
        """
        return self.builder.copied(task, options, args, kwargs)

    def promised(self, task: Task[..., R], options: Options) -> AsyncResult[R]:
        """Return the result of a call that is to be sent later."""
        result = self.results.of(options.task_id or new_id(), task)
        if options.task_id is not None:
            result.call = self.marks.new()  # what has ended before is no answer
        return result

    def fulfil(
        self,
        promised: AsyncResult[R],
        task: Task[..., R],
        options: Options,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Send the call of a promised result. Raises as `send`.

        Where an equal call is queued already the result becomes that of the equal one, and the id
        that was promised ends as REVOKED, for those who know it alone.
        """
        sent = self.send(task, options, args, kwargs)
        promised.promise = None
        if sent.id != promised.id:
            self.results.record_unsent(promised, sent.id)
        promised.id, promised.call = sent.id, sent.call
        promised.ignored, promised.final = sent.ignored, sent.final

    def send_many(self, calls: Iterable[Prepared[R]]) -> list[AsyncResult[R]]:
        """Publish many calls in few requests. All are checked before the first is sent."""
        prepared = list(calls)
        for call in prepared:
            if not isinstance(call, Prepared):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidArguments(f"publish was given {call!r}: give task.prepare(...)")
        if self._runtime.conf.task_always_eager:
            return [self._at_once(c.task, c.options, c.args, c.kwargs) for c in prepared]
        for call in prepared:
            _refuse_callbacks(call)
        messages = [self._marked(self.message_of(call), call.options) for call in prepared]
        options = [call.options for call in prepared]
        if any(message.unique_key is not None for message in messages):
            sent: Sequence[Sent | TaskMessage] = self._send_unique(messages, options)
        else:
            self._send_all(messages, options)
            sent = messages
        _keep_children([each.id for each in sent])
        pairs = zip(sent, prepared, strict=True)
        return [self.results.called(each, call.task) for each, call in pairs]

    def send_by_name(
        self, name: str, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> AsyncResult[Any]:
        """Publish a call of a task that is not registered here; its arguments are not checked."""
        if self._runtime.conf.task_always_eager:
            raise ConfigurationError(f"task {name!r} is not registered, so it cannot run eagerly")
        message = self.builder.of_name(name, options, *call_arguments(args, kwargs))
        message = self._marked(message, options)
        if message.unique_key is not None:
            [sent] = self._send_unique([message], [options])
        else:
            sent = message
            self._send_all([message], [options])
        _keep_children([sent.id])
        result = self.results.untyped(sent.id)
        result.ignored, result.call = bool(sent.ignore_result), sent.call
        return result

    def _marked(self, message: TaskMessage, options: Options) -> TaskMessage:
        """Mark a call whose id the caller gave; a schedule's run has its own key, and is one call.

        A format that is not ours has no field for a mark.
        """
        if options.task_id is None or options.idempotency_key == options.task_id:
            return message
        is_ours = message.protocol is None
        return message.model_copy(update={"call": self.marks.new()}) if is_ours else message

    def message_of(self, call: Prepared[Any]) -> TaskMessage:
        """Make the message of a call as it would be sent now. Raises as `task.delay`."""
        return self.builder.of_call(call.task, call.options, call.args, call.kwargs)

    def result_of(self, task: Task[..., R], task_id: str) -> AsyncResult[R]:
        """Return the result of a call of this task."""
        return self.results.of(task_id, task)

    def post(
        self,
        messages: Sequence[TaskMessage],
        policies: Mapping[str, PublishPolicy],
        *,
        named: bool,
    ) -> None:
        """Send messages, and note where long-delayed ones wait, so that revoking finds them.

        Of ids that the caller chose (`named`) something may be recorded already, which stays: of
        those only the ones that wait in the cloud's scheduler are noted, a write each.
        `policies` has, by message id, how often calls that say so are sent again.
        """
        for message in messages:
            self._refuse_unkept(message)
        runtime = self._runtime
        handles = runtime.broker.send(messages, policies, runtime.scheduler)
        if named:
            handles = {id: handle for id, handle in handles.items() if fires_at(handle)}
        backend = runtime.backend
        if not handles or backend is None:
            return
        places = {
            message.id: (
                message.task,
                message.queue,
                handles[message.id],
                message.not_before or 0.0,
            )
            for message in messages
            if message.id in handles
        }
        try:
            if named:
                backend.note_named(places)
            else:
                backend.note_scheduled(places)
        except BackendError as error:
            # They are sent: revoked ones will be dropped when they arrive, which is late.
            log.warning("delayed messages cannot be taken back before they are due: %s", error)

    def _send_all(self, messages: Sequence[TaskMessage], options: Sequence[Options]) -> None:
        policies = {
            message.id: policy
            for message, each in zip(messages, options, strict=True)
            if (policy := each.publish_policy) is not None
        }
        named = any(each.task_id is not None for each in options)
        self.post(messages, policies, named=named)

    def _send_unique(
        self, messages: Sequence[TaskMessage], options: Sequence[Options]
    ) -> list[Sent]:
        """Send calls of which some are unique; each call, or the one it is equal to.

        An equal call counts while it is queued or runs.
        """
        by_id = {message.id: each for message, each in zip(messages, options, strict=True)}
        send = partial(self._send_fresh, by_id)
        return Uniques(self._runtime.backend, self._unique_for).send(messages, send)

    def _send_fresh(self, options: Mapping[str, Options], messages: Sequence[TaskMessage]) -> None:
        self._send_all(messages, [options[message.id] for message in messages])

    def _at_once(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[R]:
        result = task.app.apply(task, options, args, kwargs)
        _keep_children([result.id])
        if self._runtime.conf.task_eager_propagates:
            result.get()
        return result

    def _refuse_unkept(self, message: TaskMessage) -> None:
        """Raise `ConfigurationError` for limits that only a result store can keep."""
        task = self._tasks.get(message.task)
        if task is None or task.policy.throttle is None:
            return
        if self._runtime.conf.backend_url is None:
            need_store(message.task, task.policy.throttle)

    def _unique_for(self, message: TaskMessage) -> float:
        task = self._tasks.get(message.task)
        return ((task and task.policy.throttle) or Throttle()).unique_for


def _refuse_callbacks(call: Prepared[Any]) -> None:
    if call.options.link or call.options.link_error:
        raise InvalidArguments(
            f"{call.task.name}: a prepared call has no link: start a group of signatures instead"
        )


def _keep_children(ids: Sequence[str]) -> None:
    """Remember calls as started by the running task, now that they are sent."""
    parent = current_request.get()
    if parent is not None:
        parent.children.extend([(id, None, None)] for id in ids)
