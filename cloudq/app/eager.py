"""Runs calls and workflows here and now, through the same executor as a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from cloudq.canvas.eager import run_eagerly
from cloudq.driver import Delivery
from cloudq.errors import ConfigurationError, Replaced
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action
from cloudq.messages.ids import new_id
from cloudq.messages.values import dump_value
from cloudq.publishing.builder import MessageBuilder
from cloudq.results.groups import AnyResult
from cloudq.results.record import Record, State
from cloudq.results.result import EagerResult
from cloudq.tasks.call_options import CallOptions, Options
from cloudq.tasks.signature import Node
from cloudq.tasks.task import Task

R = TypeVar("R")


class Eager:
    """Runs one app's calls in the caller's thread."""

    def __init__(
        self, executor: Executor, tasks: Mapping[str, Task[..., Any]], builder: MessageBuilder
    ) -> None:
        self._executor = executor
        self._tasks = tasks
        self._builder = builder

    def apply(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> EagerResult[R]:
        """Run a call and its callbacks; retries follow at once."""
        if options.link or options.link_error:
            linked: Any = self.start(task.linked(options, args, kwargs))
            return linked
        message = self._builder.of_call(task, options, args, kwargs)
        while True:
            delivery = Delivery(
                queue=message.queue, id=message.id, body=b"", receipt=None, attempts=1, lease=0.0
            )
            settlement = self._executor.run(Job(delivery=delivery, message=message))
            if isinstance(settlement.error, Replaced):
                return self._in_place_of(settlement.error)
            if settlement.resend is None or settlement.state is not State.RETRY:
                break
            message = settlement.resend
        ended = State.SUCCESS if settlement.action is Action.ACK else State.REJECTED
        record = settlement.record or Record(
            id=message.id, state=settlement.state or ended, error=settlement.reason or None
        )
        if settlement.error is not None:
            return EagerResult(record, error=settlement.error)
        return EagerResult(record, restore=task.arguments.restore)

    def start(self, node: Node[Any]) -> AnyResult:
        """Run a workflow; its result, which has ended."""
        return run_eagerly(node, (), self._run)

    def _in_place_of(self, replaced: Replaced) -> EagerResult[Any]:
        result = self.start(replaced.node)
        if isinstance(result, EagerResult):
            return result
        value = dump_value(result.get())
        return EagerResult(Record(id=new_id(), state=State.SUCCESS, value=value))

    def _run(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> EagerResult[Any]:
        task = self._tasks.get(name)
        if task is None:
            raise ConfigurationError(f"task {name!r} is not registered, so it cannot run eagerly")
        return self.apply(task, Options.of(cast("CallOptions", options)), args, kwargs)
