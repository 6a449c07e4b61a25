"""Makes the messages of calls: the task's own options, the call's, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from cloudq.clock import Clock, real_time
from cloudq.errors import InvalidArguments
from cloudq.ids import new_id
from cloudq.message import TaskMessage
from cloudq.settings import Settings
from cloudq.task import CallOptions, Options, Task


class Envelopes:
    """Envelopes of one app's calls. `tasks` may grow; other names are sent as they are."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        conf: Callable[[], Settings],
        clock: Clock = real_time,
    ) -> None:
        self._tasks = tasks
        self._conf = conf
        self._clock = clock

    def planned(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        **fields: Any,
    ) -> TaskMessage:
        """The message of a call out of a workflow."""
        return self.make(name, args, kwargs, Options.of(options), **fields)

    def make(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Options,
        **fields: Any,
    ) -> TaskMessage:
        """The message of a call, its arguments as wire values. Raises `InvalidArguments`."""
        now = self._clock()
        task = self._tasks.get(name)
        expires = task.policy.expires if task else None
        queue = task.policy.queue if task else None
        try:
            return TaskMessage(
                id=options.task_id or new_id(),
                task=name,
                args=list(args),
                kwargs=dict(kwargs),
                queue=options.queue or queue or self._conf().task_default_queue,
                sent_at=round(now, 3),
                not_before=options.not_before(now),
                expires=options.expiry(now, expires),
                headers=dict(options.headers) if options.headers else {},
                time_limit=options.time_limit,
                soft_time_limit=options.soft_time_limit,
                ignore_result=options.ignore_result,
                group_key=options.group_key,
                dedup_key=options.dedup_key,
                idempotency_key=options.idempotency_key,
                **fields,
            )
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InvalidArguments(f"{name}: {place}: {first['msg']}") from error
