"""The app as its tasks and signatures see it, so that they need not import it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cloudq.results.eager import EagerResult
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime


class TaskPublisher(Protocol):
    """Sends calls of tasks, and makes their results; `cloudq.publishing.publisher` is one."""

    def promised(self, task: Any, options: Any, /) -> AsyncResult[Any]:
        """Return the result of a call that is to be sent later."""
        ...

    def fulfil(
        self,
        promised: Any,
        task: Any,
        options: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        /,
    ) -> None:
        """Send the call of a promised result."""
        ...

    def send(
        self, task: Any, options: Any, args: Sequence[Any], kwargs: Mapping[str, Any], /
    ) -> AsyncResult[Any]:
        """Publish one call of a task."""
        ...

    def copied(
        self, task: Any, options: Any, args: Sequence[Any], kwargs: Mapping[str, Any], /
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments as the message of a call would have them."""
        ...

    def result_of(self, task: Any, task_id: str, /) -> AsyncResult[Any]:
        """Return the result of a call of this task."""
        ...


class TaskApp(Protocol):
    """The app of a task. Nodes and tasks are `Any` here: their modules import this one."""

    @property
    def name(self) -> str: ...
    @property
    def runtime(self) -> Runtime: ...
    @property
    def publisher(self) -> TaskPublisher: ...
    @property
    def task(self) -> Callable[..., Any]: ...

    def apply(
        self, task: Any, options: Any, args: Sequence[Any], kwargs: Mapping[str, Any], /
    ) -> EagerResult[Any]:
        """Run one call here and now."""
        ...

    def start(self, node: Any, args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        """Send a workflow."""
        ...

    def start_eagerly(self, node: Any, args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        """Run a workflow here and now."""
        ...

    def add_to_chord(self, node: Any, /) -> AsyncResult[Any]:
        """Add a member to the chord of the running task, and send it."""
        ...
