"""Publishes calls: unique ones once, delayed ones with a note of their place for revoking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from cloudq.broker.one_time import fires_at
from cloudq.broker.retry import PublishPolicy
from cloudq.driver.log import Log
from cloudq.errors import BackendError, ConfigurationError, InvalidArguments
from cloudq.messages.message import TaskMessage, new_id
from cloudq.messages.payload_places import NotStored, storing
from cloudq.publishing.batch import OPEN, Batch, checked_bundle
from cloudq.publishing.builder import MessageBuilder
from cloudq.publishing.numbers import Numbers
from cloudq.publishing.results import ResultFactory
from cloudq.results.call_marks import Marks
from cloudq.results.delayed_calls import note_named, note_scheduled
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime
from cloudq.tasks.call_arguments import call_arguments, each_of, id_text
from cloudq.tasks.call_options import NO_OPTIONS, CallOptions, Options
from cloudq.tasks.limits.rules import Throttle, need_store
from cloudq.tasks.limits.unique import Send, Sent, Uniques
from cloudq.tasks.request import current_request
from cloudq.tasks.task import Prepared, Task

log = Log("cloudq.app")

R = TypeVar("R")

_PREPARED = "publish takes a list of calls, as [task.prepare(...)]"


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
        self.tasks = tasks
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
        build = self.builder.of_call
        try:
            message = build(task, options, args, kwargs)
        except NotStored:  # it has a file in it
            message = storing(self._runtime.payloads, build, task, options, args, kwargs)
        if options.task_id is not None:
            message = self._marked(message, options)
        batch = OPEN.get()
        if batch is not None and batch.owner is self and message.unique_key is None:
            return self._collected(batch, message, options, task)
        if message.unique_key is not None:
            [sent] = self._send_unique([message], [options])
            _keep_children([sent.id])
            return self.results.called(sent, task)
        if options.retry is None and options.retry_policy is None and message.not_before is None:
            if task.policy.throttle is not None:
                self._refuse_unkept(message.task)
            self._runtime.broker.send((message,))
        else:
            self._send_all([message], [options])
        if current_request.get() is not None:
            _keep_children([message.id])
        return self.results.called(message, task)

    def copied(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Check and write the arguments of a call, and return them as a message has them.

        Raises as `send`, but for the broker.
        """
        return storing(self._runtime.payloads, self.builder.copied, task, options, args, kwargs)

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

    def _collected(
        self, batch: Batch, message: TaskMessage, options: Options, task: Task[..., R]
    ) -> AsyncResult[R]:
        """Leave a call to a batch."""
        self._refuse_unkept(message.task)
        message = batch.numbers.numbered(message, options)
        result = self.results.called(message, task)
        batch.take(message, options.publish_policy, result, named=options.task_id is not None)
        _keep_children([message.id])
        return result

    def numbers(self, bundle: int | None = None) -> Numbers:
        """Return what numbers the calls of one publish, in bundles of the open batch's size."""
        batch = OPEN.get()
        if bundle is None and batch is not None and batch.owner is self:
            bundle = batch.numbers.size
        return Numbers(self.tasks, bundle)

    def batch(self, bundle: int | None) -> Batch:
        """Return a batch that collects calls. Raises `ConfigurationError`."""
        return Batch(self, self.post, Numbers(self.tasks, checked_bundle(bundle)))

    def send_many(
        self, calls: Iterable[Prepared[R]], bundle: int | None = None
    ) -> list[AsyncResult[R]]:
        """Publish many calls in few requests. All are checked before the first is sent.

        With `bundle` up to so many of them go in one message. Raises `ConfigurationError` as well.
        """
        numbers = self.numbers(checked_bundle(bundle))
        is_eager = self._runtime.conf.task_always_eager
        ended: list[AsyncResult[R]] = []
        prepared: list[Prepared[R]] = []
        messages: list[TaskMessage] = []
        # Written as they come, for their maker may go on with its list.
        for call in each_of(calls, _PREPARED):
            if not isinstance(call, Prepared):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidArguments(f"publish was given {call!r}: give task.prepare(...)")
            if is_eager:
                ended.append(self._at_once(call.task, call.options, call.args, call.kwargs))
                continue
            _refuse_callbacks(call)
            prepared.append(call)
            message = self.message_of(call, numbers)
            messages.append(self._marked(message, call.options))
        if is_eager:
            return ended
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
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None, given: CallOptions
    ) -> AsyncResult[Any]:
        """Publish a call of a task, whose arguments are not checked if it is not registered here.

        Raises as `send`.
        """
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArguments(f"send_task was given {name!r:.100}: give the name of a task")
        task = self.tasks.get(name)
        if task is not None:
            return task.apply_async(args, kwargs, **given)
        options = Options.of(given)
        if self._runtime.conf.task_always_eager:
            raise ConfigurationError(f"task {name!r} is not registered, so it cannot run eagerly")
        message = storing(
            self._runtime.payloads,
            self.builder.of_name,
            name,
            options,
            *call_arguments(args, kwargs),
        )
        message = self._marked(message, options)
        if message.unique_key is not None:
            [sent] = self._send_unique([message], [options])
        else:
            sent = message
            self._send_all([message], [options])
        _keep_children([sent.id])
        result = self.results.named(sent.id, name, args, kwargs or {})
        result.ignored = self.results.ignores(name, sent.ignore_result)
        result.call = sent.call
        return result

    def _marked(self, message: TaskMessage, options: Options) -> TaskMessage:
        """Mark a call whose id the caller gave; a schedule's run has its own key, and is one call.

        A format that is not ours has no field for a mark.
        """
        if options.task_id is None or options.idempotency_key == options.task_id:
            return message
        is_ours = message.protocol is None
        return message.model_copy(update={"call": self.marks.new()}) if is_ours else message

    def message_of(self, call: Prepared[Any], numbers: Numbers | None = None) -> TaskMessage:
        """Make the message of a call as it would be sent now. Raises as `task.delay`."""
        given = call.task, call.options, call.args, call.kwargs
        return storing(self._runtime.payloads, self.builder.of_call, *given, numbers)

    def result_of(self, task: Task[..., R], task_id: str) -> AsyncResult[R]:
        """Return the result of a call of this task."""
        result = self.results.of(id_text(task_id), task)
        result.restore_each = task.arguments.restore_each
        return result

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
        for name in {message.task for message in messages}:
            self._refuse_unkept(name)
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
            note = note_named if named else note_scheduled
            note(backend, places)
        except BackendError as error:
            # They are sent: revoked ones will be dropped when they arrive, which is late.
            log.warning("delayed messages cannot be taken back before they are due: %s", error)

    def _send_all(self, messages: Sequence[TaskMessage], options: Sequence[Options]) -> None:
        policies = {
            message.id: policy
            for message, each in zip(messages, options, strict=True)
            if each is not NO_OPTIONS and (policy := each.publish_policy) is not None
        }
        named = any(each.task_id is not None for each in options)
        self.post(messages, policies, named=named)

    def send_if_new(self, message: TaskMessage, send: Send) -> Sent:
        """Call `send` for a unique message, unless an equal call is queued or runs."""
        [sent] = Uniques(self._runtime.backend, self._unique_for).send([message], send)
        return sent

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

    def _refuse_unkept(self, name: str) -> None:
        """Raise `ConfigurationError` for limits that only a result store can keep."""
        task = self.tasks.get(name)
        if task is None or task.policy.throttle is None:
            return
        if self._runtime.conf.backend_url is None:
            need_store(name, task.policy.throttle)

    def _unique_for(self, message: TaskMessage) -> float:
        task = self.tasks.get(message.task)
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
