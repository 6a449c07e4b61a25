"""Puts together what an app stands on, as its settings say: broker, result store, workflows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from cloudq.broker.broker import Broker
from cloudq.broker.one_time import OneTimeSchedules
from cloudq.clock import Clock
from cloudq.execution import lifecycle
from cloudq.messages.codec import Codec
from cloudq.publishing.builder import MessageBuilder
from cloudq.publishing.publisher import Publisher
from cloudq.publishing.results import ResultFactory
from cloudq.results.backend import Backend
from cloudq.results.events import History, Level
from cloudq.services import Services
from cloudq.settings import Settings
from cloudq.tasks.task import Task

if TYPE_CHECKING:  # loaded at its first use
    from cloudq.canvas.workflows import Workflows


class Wired(Protocol):
    """The app. Its settings may change, its tasks grow, its broker and backend open later."""

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]: ...
    @property
    def conf(self) -> Settings: ...
    @property
    def broker(self) -> Broker: ...
    @property
    def backend(self) -> Backend | None: ...
    def now(self) -> float: ...


def open_broker(
    conf: Settings,
    services: Services,
    *,
    codec: Codec,
    backend: Callable[[], Backend | None],
    clock: Clock,
) -> Broker:
    """The broker at `conf.broker`; `backend` parks what it cannot delay. Opens no backend.

    Raises `ConfigurationError` for an address that nothing is installed for.
    """

    from cloudq.broker.delayed import DelayedStore

    def parked_in() -> Backend:
        opened = backend()
        assert opened is not None  # a broker without one has no parking
        return opened

    return Broker(
        services.open_broker(conf.broker),
        url=conf.broker,
        publish_retries=conf.publish_retries,
        delayed_store=DelayedStore(parked_in) if conf.backend_url is not None else None,
        codec=codec,
        announce=lifecycle.announced,
        published=lifecycle.published,
        clock=clock,
        sleep=services.sleep,
    )


def open_one_time(conf: Settings, services: Services, app: str) -> OneTimeSchedules | None:
    """Where this app's calls for far times wait; None where the settings name nothing."""
    url, after = conf.scheduler, conf.scheduler_eta
    if url is None or after is None:
        return None
    return OneTimeSchedules(lambda: services.open_scheduler(url), url=url, app=app, after=after)


def open_backend(conf: Settings, services: Services, *, url: str, clock: Clock) -> Backend:
    """The result store at `url`. Raises as `open_broker`."""
    return Backend(
        services.open_backend(url),
        url=url,
        expires=conf.result_expires,
        history=_history(conf, clock),
        clock=clock,
    )


def _history(conf: Settings, clock: Clock) -> History | None:
    if conf.task_events is Level.NONE:
        return None
    return History(
        conf.task_events,
        expires=conf.task_events_expires,
        arguments=conf.task_events_args,
        max_body=conf.max_body,
        clock=clock,
    )


def make_workflows(
    app: Wired, builder: MessageBuilder, publishing: Publisher, results: ResultFactory
) -> Workflows:
    """What an app does with signatures, chains, groups and chords."""
    from cloudq.canvas.plan import Planner
    from cloudq.canvas.validate import Checks
    from cloudq.canvas.workflows import Workflows

    tasks = app.tasks
    planner = Planner(
        builder.planned,
        expires=lambda: app.conf.result_expires,
        takes_request=lambda name: name in tasks and tasks[name].arguments.takes(2),
        clock=app.now,
    )
    return Workflows(
        planner=planner,
        publish=lambda messages, policies: publishing.post(messages, policies, named=True),
        make=results.named,
        broker=lambda: app.broker,
        backend=lambda: app.backend,
        max_depth=lambda: app.conf.max_depth,
        checks=Checks(
            arguments=lambda name: tasks[name].arguments if name in tasks else None,
            max_fan_out=lambda: app.conf.max_fan_out,
        ),
    )
