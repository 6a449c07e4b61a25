"""The small parts of Celery's app: its clock, its ids, its report, and what is current."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import Any, TypeVar

from cloudq.app.functions import main_module
from cloudq.contrib.celery.conf import Conf
from cloudq.contrib.celery.current import the_task
from cloudq.contrib.celery.loader import Loader
from cloudq.contrib.celery.rules import tell_once
from cloudq.contrib.celery.task import class_for
from cloudq.errors import ConfigurationError
from cloudq.messages.message import new_id
from cloudq.runtime import Runtime

T = TypeVar("T")

_PARTS = "parts of the app cannot be exchanged: derive a class from Celery, or use middleware"

# Parts of Celery's app that have no counterpart, and why.
REFUSED = {
    "amqp": "queues are the cloud's: see app.broker and `cloudq queues`",
    "pool": "the broker keeps its connections: see app.broker",
    "producer_pool": "the broker keeps its connections: see app.broker",
    "producer_or_acquire": "send with app.send_task or app.publish",
    "connection": "the broker keeps its connections: see app.broker",
    "connection_for_read": "the broker keeps its connections: see app.broker",
    "connection_for_write": "the broker keeps its connections: see app.broker",
    "connection_or_acquire": "the broker keeps its connections: see app.broker",
    "broker_connection": "the broker keeps its connections: see app.broker",
    "default_producer": "send with app.send_task or app.publish",
    "events": "events are recorded: see `cloudq events` and `cloudq tasks list`",
    "log": "a worker logs as its command line says; the library configures nothing",
    "steps": "parts of the worker cannot be exchanged: use signals or middleware",
    "user_options": "the worker's command line takes no more options",
    "select_queues": "name the queues of a worker with -Q",
    "setup_security": "messages are signed with the setting signing_keys",
    "worker_main": "run `cloudq worker -A module:app`",
    "Worker": "run `cloudq worker -A module:app`",
    "WorkController": "run `cloudq worker -A module:app`",
    "Pickler": "an app is not pickled: each process imports it",
    "amqp_cls": _PARTS,
    "backend_cls": "the store is named by result_backend",
    "builtin_fixups": _PARTS,
    "control_cls": _PARTS,
    "create_task_cls": "app.Task is the class of this app's tasks",
    "events_cls": _PARTS,
    "loader_cls": _PARTS,
    "log_cls": _PARTS,
    "registry_cls": _PARTS,
    "subclass_with_self": _PARTS,
    "config_from_cmdline": "settings come from the code, a file and the environment",
    "prepare_config": "settings are read when they are given: see app.config_from_object",
    "on_configure": "connect to app.on_after_configure",
    "on_after_fork": "connect to the signal worker_process_init",
    "on_init": "derive a class from Celery, and extend its __init__",
    "type_checker": "arguments are checked by the function's signature; typing=False leaves it out",
}

NOT_OVERRIDDEN = {
    "loader": "name modules in include, or app.autodiscover_tasks()",
}
"""More of what a class of apps cannot override, and why."""


class AppNames:
    """The methods and attributes of Celery's app that need nothing but its settings."""

    IS_WINDOWS = sys.platform == "win32"
    SYSTEM = platform.system()
    autofinalize = True
    configured = True
    finalized = True
    runtime: Runtime
    task_cls: Any = None
    warned: set[str]
    _name: str
    load: Callable[[], None]
    config_from_object: Callable[..., None]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = [each for each in cls.__mro__ if not each.__module__.startswith("cloudq.")]
        for name, why in {**REFUSED, **NOT_OVERRIDDEN}.items():
            if any(name in vars(each) for each in own):
                raise ConfigurationError(f"class {cls.__name__}: {name} has no effect here: {why}")

    @property
    def Task(self) -> type[Any]:  # noqa: N802 (Celery's name)
        """The class of this app's tasks, for classes of one's own: `class Base(app.Task)`.

        Set it before the tasks are declared, as programs with Flask do.
        """
        return self.task_cls

    @Task.setter
    def Task(self, kind: type[Any] | str) -> None:  # noqa: N802
        self.task_cls = class_for(self, kind)

    @property
    def conf(self) -> Conf:
        """The settings."""
        raise NotImplementedError

    @property
    def timezone(self) -> tzinfo:
        """The time zone of the setting `timezone`."""
        return self.runtime.zone

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the name of a task that is given none."""
        return f"{main_module() if module == '__main__' else module}.{name}"

    def is_plain(self, queue: str) -> bool:
        """Say if a queue has no priorities; one that is given there is told of once."""
        if queue in self.runtime.conf.priority_queues:
            return False
        tell_once(
            "priority",
            f"{self._name}: queue {queue!r} has no priorities, so that of a call is ignored: "
            f'declare them with priority_queues=["{queue}"]',
            self.warned,
        )
        return True

    def config_from_envvar(
        self, variable_name: str, silent: bool = False, force: bool = False
    ) -> None:
        """Take settings from the module that an environment variable names."""
        name = os.environ.get(variable_name)
        if name:
            self.config_from_object(name, silent=silent)
        elif not silent:
            raise ConfigurationError(f"the variable {variable_name} names no settings module")

    def uses_utc_timezone(self) -> bool:
        """Say if the time zone is UTC."""
        return str(self.timezone) == "UTC"

    def now(self) -> datetime:
        """Return the time by the app's clock, in its time zone."""
        return datetime.fromtimestamp(self.runtime.clock(), UTC).astimezone(self.timezone)

    @property
    def current_task(self) -> Any:
        """The task that runs in this thread; None for none."""
        return the_task()

    @property
    def current_worker_task(self) -> Any:
        """The same as `current_task`."""
        return the_task()

    @property
    def annotations(self) -> Sequence[Any]:
        """The setting `task_annotations`, as a list."""
        found = self.runtime.conf.task_annotations
        return () if found is None else (found,)

    @property
    def loader(self) -> Loader:
        """Imports the modules of this app."""
        return Loader(self.load)

    @cached_property
    def oid(self) -> str:
        """An id of this app in this process."""
        return new_id()

    @property
    def thread_oid(self) -> str:
        """The same as `oid`: no reply is kept for a thread."""
        return self.oid

    def finalize(self, auto: bool = False) -> None:
        """Import the modules of the app, as a worker does; tasks are made when declared."""
        self.load()

    def either(self, default_key: str, *defaults: T) -> T | Any:
        """Return the first value that is not None, else the setting of this name."""
        return next((value for value in defaults if value is not None), self.conf.get(default_key))

    def bugreport(self) -> str:
        """Return the versions and the settings that a report of a bug should have."""
        from importlib.metadata import version

        return "\n".join(
            [
                f"software -> cloudq:{version('cloudq-tasks')} py:{platform.python_version()}",
                f"platform -> system:{platform.system()} imp:{platform.python_implementation()}",
                "",
                self.conf.humanize(),
            ]
        )


def asks_for_name(app: Any, options: dict[str, Any]) -> Callable[[Any], Any] | None:
    """Make a decorator that asks a program's own `gen_task_name` for a name.

    None for an app without one, and where a name is given.
    """
    own = getattr(app.gen_task_name, "__func__", None) is not AppNames.gen_task_name
    if not own or options.get("name") is not None:
        return None

    def decorate(function: Any) -> Any:
        name = app.gen_task_name(function.__name__, function.__module__)
        return app.task(**{**options, "name": name})(function)

    return decorate
