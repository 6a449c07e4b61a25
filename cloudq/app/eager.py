"""Runs calls and workflows here and now, through the same executor as a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from cloudq.canvas.eager import EagerWorkflows
from cloudq.driver import Delivery
from cloudq.errors import ConfigurationError, Replaced, Retry
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.messages.payload_places import storing
from cloudq.publishing.builder import MessageBuilder
from cloudq.results.eager import EagerResult
from cloudq.results.groups import AnyResult
from cloudq.results.large import LargeValues
from cloudq.results.record import IGNORED, Record, State, as_ignored
from cloudq.tasks.call_options import CallOptions, Options
from cloudq.tasks.signature import Node
from cloudq.tasks.task import Task

R = TypeVar("R")


class Eager:
    """Runs one app's calls in the caller's thread.

    With `raises` a call that is to be retried raises that, and is not.
    """

    result_type: type[EagerResult[Any]] = EagerResult
    workflows_type: type[EagerWorkflows] = EagerWorkflows
    raises = False

    def __init__(
        self, executor: Executor, tasks: Mapping[str, Task[..., Any]], builder: MessageBuilder
    ) -> None:
        self._executor = executor
        self._tasks = tasks
        self._builder = builder
        self._workflows = self.workflows_type(tasks, self._run)

    def apply(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[R]:
        """Run a call and its callbacks; retries follow at once."""
        if options.link or options.link_error:
            linked: Any = self.start(task.linked(options, args, kwargs))
            return linked
        message = self.message(task, options, args, kwargs)
        encode(message)  # refuses what no message can hold, as `send` does
        while True:
            delivery = Delivery(
                queue=message.queue, id=message.id, body=b"", receipt=None, attempts=1, lease=0.0
            )
            settlement = self._executor.run(Job(delivery=delivery, message=message))
            if isinstance(settlement.error, Replaced):
                in_its_place: Any = self._workflows.in_place_of(message.id, settlement.error.node)
                return in_its_place
            if settlement.resend is None or settlement.state is not State.RETRY:
                break
            if self.raises:
                error = settlement.error
                raise error if isinstance(error, Retry) else Retry(cause=error) from error
            message = settlement.resend
        ended = State.SUCCESS if settlement.action is Action.ACK else State.REJECTED
        record = settlement.record or Record(
            id=message.id,
            state=settlement.state or ended,
            task=message.task,
            error=settlement.reason or None,
        )
        if settlement.error is not None and record.state is not State.REJECTED:
            return self._ended(record, error=settlement.error, message=message)
        if settlement.record is None:  # nothing is kept of its value
            because = as_ignored(record) if settlement.reason == IGNORED else None
            return self._ended(record, because=because, message=message)
        restore = task.arguments.results(args, kwargs).restore
        return self._ended(record, restore=restore, message=message)

    def _ended(self, record: Record, **more: Any) -> EagerResult[Any]:
        result = self.result_type(record, **more)
        result.loads = LargeValues(self._executor.runtime.payloads).load
        return result

    def message(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskMessage:
        """Make the message of a call."""
        build, opens = self._builder.of_call, self._executor.runtime.payloads
        return storing(opens, build, task, options, args, kwargs)

    def start(self, node: Node[Any]) -> AnyResult:
        """Run a workflow; its result, which has ended."""
        return self._workflows.start(node)

    def _run(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> EagerResult[Any]:
        task = self._tasks.get(name)
        if task is None:
            raise ConfigurationError(f"task {name!r} is not registered, so it cannot run eagerly")
        # What follows gets the value of a call whose result is ignored, as from a worker.
        given = {**options, "ignore_result": False}
        return self.apply(task, Options.of(cast("CallOptions", given)), args, kwargs)
