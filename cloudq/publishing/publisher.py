"""Hands an app's messages to its broker: unique calls once, delayed ones where they are found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cloudq.broker.broker import Broker
from cloudq.broker.one_time import OneTimeSchedules, fires_at
from cloudq.broker.retry import PublishPolicy
from cloudq.errors import BackendError
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.settings import Settings
from cloudq.tasks.call_options import Options
from cloudq.tasks.limits.rules import Throttle, need_store
from cloudq.tasks.task import Task

log = logging.getLogger("cloudq.app")


class Sender(Protocol):
    """The app that sends. Its broker and backend are opened when they are asked for."""

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]: ...
    @property
    def conf(self) -> Settings: ...
    @property
    def broker(self) -> Broker: ...
    @property
    def backend(self) -> Backend | None: ...
    @property
    def one_time(self) -> OneTimeSchedules | None: ...


class Publisher:
    """Publishes the messages of one app."""

    def __init__(self, app: Sender) -> None:
        self._app = app

    def send(self, messages: Sequence[TaskMessage], options: Sequence[Options]) -> list[str]:
        """Publish calls of these options; the ids, of a unique call that of its equal if there is.

        An equal call counts while it is queued or runs.
        """
        named = any(each.task_id is not None for each in options)
        policies = {
            message.id: policy
            for message, each in zip(messages, options, strict=True)
            if (policy := each.publish_policy) is not None
        }
        if all(message.unique_key is None for message in messages):
            self.post(messages, policies, named=named)
            return [message.id for message in messages]
        from cloudq.tasks.limits.unique import Uniques

        uniques = Uniques(lambda: self._app.backend, self._unique_for)
        return uniques.send(messages, lambda fresh: self.post(fresh, policies, named=named))

    def post(
        self,
        messages: Sequence[TaskMessage],
        policies: Mapping[str, PublishPolicy],
        *,
        named: bool,
    ) -> None:
        """Send, and remember where long delayed messages wait, so that revoking finds them.

        Of ids that the caller chose (`named`) something may be recorded already, which stays: of
        those only the ones that wait in the cloud's scheduler are noted, a write each.
        `policies` has, by message id, how often calls that say so are sent again.
        """
        app = self._app
        if app.conf.backend_url is None:
            self._refuse_unkept(messages)
        handles = app.broker.send(messages, policies, app.one_time)
        if named:
            handles = {id: handle for id, handle in handles.items() if fires_at(handle)}
        if not handles or app.backend is None:
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
                app.backend.note_named(places)
            else:
                app.backend.note_scheduled(places)
        except BackendError as error:
            # They are sent: revoked ones will be dropped when they arrive, which is late.
            log.warning("delayed messages cannot be taken back before they are due: %s", error)

    def _refuse_unkept(self, messages: Sequence[TaskMessage]) -> None:
        """Raise `ConfigurationError` for limits that only a result store can keep."""
        for message in messages:
            task = self._app.tasks.get(message.task)
            if task is not None and task.policy.throttle is not None:
                need_store(message.task, task.policy.throttle)

    def _unique_for(self, message: TaskMessage) -> float:
        task = self._app.tasks.get(message.task)
        return ((task and task.policy.throttle) or Throttle()).unique_for
