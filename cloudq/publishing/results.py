"""Makes result handles: of one call, of its children, and of saved groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from cloudq.broker.one_time import fires_at
from cloudq.driver.log import Log
from cloudq.errors import BackendError, ConfigurationError, InvalidArguments, ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.results.record import DelayedMessage, Record, State
from cloudq.results.result import AsyncResult
from cloudq.results.terminate import ResultActions, Termination
from cloudq.runtime import Runtime
from cloudq.tasks.call_arguments import each_of, id_text
from cloudq.tasks.limits.unique import Sent
from cloudq.tasks.signature import Node, Signature
from cloudq.tasks.task import Task

if TYPE_CHECKING:  # loaded at its first use
    from cloudq.results.groups import GroupResult

log = Log("cloudq.app")

R = TypeVar("R")


class ResultFactory:
    """Makes results that read one app's store and take delayed messages out of its queues.

    `tasks` are those of the app, the built-in ones among them. `kind` is the class of the results.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        terminate: Callable[[Sequence[str], Termination], None],
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self.kind: type[AsyncResult[Any]] = AsyncResult
        self._actions = ResultActions(
            take_back=self._take_back, terminate=terminate, children=self._children
        )

    def of(self, task_id: str, task: Task[..., R]) -> AsyncResult[R]:
        """Return the result of a call of this task."""
        return self.kind(
            task_id,
            self._runtime.backend,
            restore=task.arguments.restore,
            task=task.name,
            actions=self._actions,
        )

    def called(self, sent: Sent | TaskMessage, task: Task[..., R]) -> AsyncResult[R]:
        """Return the result of a call that was sent, or of the equal one in its place."""
        result = self.of(sent.id, task)
        result.ignored = self.ignores(task.name, sent.ignore_result)
        result.call = sent.call
        return result

    def ignores(self, name: str, asked: bool | None) -> bool:
        """Tell whether nothing is recorded of a call, by its own option or by its task's."""
        task = self._tasks.get(name)
        if asked is not None or task is None:
            return bool(asked)
        own = task.policy.ignore_result
        return self._runtime.conf.task_ignore_result if own is None else own

    def record_unsent(self, promised: AsyncResult[Any], equal: str) -> None:
        """Record the end of a call that is not sent, since an equal one is queued or runs."""
        backend = promised.backend
        record = Record(
            id=promised.id,
            state=State.REVOKED,
            task=promised.task,
            error=f"not sent: the equal call {equal} was queued already",
            finished_at=backend.clock(),
            call=promised.call,
        )
        try:
            backend.advance(record)
        except BackendError as error:
            log.warning("task %s: its end is not recorded: %s", promised.id, error)

    def untyped(self, task_id: str) -> AsyncResult[Any]:
        """Return the result of a call of which only the id is known.

        Raises `InvalidArguments` for what is no id.
        """
        return self.kind(
            id_text(task_id),
            self._runtime.backend,
            actions=self._actions,
        )

    def ids(self, given: str | Iterable[str]) -> list[str]:
        """Return one id, or many, as a list. Raises `InvalidArguments` for what is neither."""
        if isinstance(given, str | UUID):
            return [id_text(given)]
        if isinstance(given, bytes):
            raise InvalidArguments(f"the id of a task is {given!r}: give a text, as result.id")
        return [id_text(each) for each in each_of(given, "give the id of a task, or a list of ids")]

    def named(
        self, task_id: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Return the result of a call by its task's name, which need not be registered.

        Of its arguments those of a map name the task whose values it gives.
        """
        task = self._tasks.get(name)
        if task is None:
            return self.untyped(task_id)
        result = self.of(task_id, task)
        result.restore = task.arguments.results(args, kwargs).restore
        return result

    def planned(self, node: Node[Any]) -> AsyncResult[Any]:
        """Return the result of a call in a workflow, which has its id."""
        if not isinstance(node, Signature):
            return self.untyped(str(node.id))
        return self.named(str(node.id), node.task, node.args, node.kwargs)

    def group(self, id: str) -> GroupResult[Any] | None:
        """Return the results of a saved group; None if it was never saved or has expired."""
        from cloudq.results.groups import restore_group

        id = id_text(id)
        return restore_group(id, self.untyped(id).backend, self.untyped)

    def _take_back(self, task_id: str, message: DelayedMessage) -> bool:
        """Take a delayed message out of its queue; False where it has left already."""
        queue, handle = message.queue, message.handle
        fires = fires_at(handle)
        try:
            if fires is not None and (one_time := self._runtime.scheduler) is not None:
                return one_time.take_back(handle)
            return not self._runtime.broker.unschedule(queue, [handle])
        except (ServiceError, ConfigurationError) as error:
            log.warning(
                "task %s: it could not be unscheduled, and will be dropped when it is due: %s",
                task_id,
                error,
            )
        if fires is not None and self._runtime.backend is not None:
            self._runtime.backend.revoke(task_id, due=fires)  # the mark must be there then
        return False

    def _children(self, outlines: str) -> list[Any]:
        from cloudq.results.groups import restored

        return restored(outlines, self.untyped)
