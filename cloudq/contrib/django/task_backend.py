"""A backend for the tasks of Django 6, `django.tasks`: each is a task of the project's app."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from django.core.checks import CheckMessage, Error
from django.utils.timezone import get_default_timezone, is_naive

from cloudq.app import CloudQ
from cloudq.contrib.django.conf import DjangoCloudQ, project_app
from cloudq.contrib.django.task_results import HEADER, Call, call_of
from cloudq.contrib.django.task_runs import carrier, listen, tell
from cloudq.errors import InvalidArguments, did_you_mean
from cloudq.results.eager import EagerResult

_backends: Any = import_module("django.tasks.backends.base")
_exceptions: Any = import_module("django.tasks.exceptions")
_base: Any = _backends.BaseTaskBackend

_DEFAULT = "default"
_PARTS = frozenset({"BACKEND", "QUEUES", "OPTIONS"})  # what an entry of TASKS has
# Of Django's priorities, -100 to 100, the sign decides: each level of a queue has three of ours.
_NORMAL, _HIGHEST, _LEVELS = 5, 100, 3


class CloudQBackend(_base):
    """Sends Django's tasks as calls of the project's app, which its workers run.

    Queues are those of the app; Django's queue `default` is the app's default one, or that of
    `task_routes`. What it supports depends on the settings of the app.
    """

    supports_async_task = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self._params = params
        listen()

    @property
    def app(self) -> CloudQ:
        """The project's app. Raises `ConfigurationError`."""
        return project_app()

    @property
    def supports_defer(self) -> bool:
        """True where the queue delays messages, or a store keeps what is not due."""
        app = self.app
        if app.conf.backend_url is not None:
            return True
        return app.broker.limits(app.conf.task_default_queue).max_delay > 0

    @property
    def supports_get_result(self) -> bool:
        """True with a result store that other processes reach."""
        url = self.app.conf.backend_url
        return url is not None and not url.startswith("memory:")

    @property
    def supports_priority(self) -> bool:
        """True if each of the queues has priorities, by the setting `priority_queues`."""
        conf = self.app.conf
        queues = {conf.task_default_queue if name == _DEFAULT else name for name in self.queues}
        return bool(queues) and queues <= set(conf.priority_queues)

    def validate_task(self, task: Any) -> None:
        """Do as Django does, and make the task known to the app. Raises `InvalidTask`."""
        super().validate_task(task)
        carrier(task.func)
        app = self.app
        if isinstance(app, DjangoCloudQ):
            app.declared_queues.add(task.queue_name)

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Send one call, and return its result, whose id is that of the call.

        Raises `InvalidTask`, `TypeError` for arguments that JSON has not, and `CloudQError`.
        """
        self.validate_task(task)
        app = self.app
        runtime = app.runtime
        due = _due(task.run_after)
        call = Call(
            id=runtime.new_id(),
            path=task.module_path,
            backend=self.alias,
            queue=task.queue_name,
            priority=task.priority,
            run_after=due,
            enqueued_at=runtime.clock(),
            args=args,
            kwargs=kwargs,
        )
        result = call.result(task, "READY")  # which refuses what JSON has not
        store = app.backend
        if store is not None:
            call.keep(store)
        options = self._options(task, due)
        try:
            sent = carrier(task.func).apply_async(
                result.args,
                result.kwargs,
                task_id=call.id,
                headers={HEADER: call.header},
                **options,
            )
        except BaseException as error:
            if store is not None:
                call.forget(store)
            if isinstance(error, InvalidArguments):
                raise _exceptions.InvalidTask(str(error)) from error
            raise
        if isinstance(sent, EagerResult):
            if store is not None:
                store.store([sent.record])
            result = call.recorded(task, sent.record)
        tell("task_enqueued", result)
        return result

    def _options(self, task: Any, due: float | None) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if task.queue_name != _DEFAULT:
            options["queue"] = task.queue_name
        if due is not None:
            options["eta"] = datetime.fromtimestamp(due, UTC)
        if self.supports_priority:
            options["priority"] = priority_of(task.priority)
        return options

    def get_result(self, result_id: str) -> Any:
        """Return the result of a call as it is now. Raises `TaskResultDoesNotExist`."""
        call = call_of(self.app, result_id)
        if call is None:
            raise _exceptions.TaskResultDoesNotExist(result_id)
        try:
            task = call.task()
        except ImportError as error:  # it is in the code no more
            raise _exceptions.TaskResultDoesNotExist(result_id) from error
        record = self.app.AsyncResult(result_id).record
        return call.recorded(task, record)

    def check(self, **_more: Any) -> list[CheckMessage]:
        """Check the options: `cloudq.E003`. The app's own settings have their own check."""
        place = f"TASKS[{self.alias!r}]"
        found: list[CheckMessage] = []
        if self.options:
            given = ", ".join(map(str, self.options))
            said = f"{place}: OPTIONS has {given}, which CloudQBackend does not know."
            hint = "The settings of cloudq stand in CLOUDQ."
            found.append(Error(said, hint=hint, id="cloudq.E003"))
        near = {str(name): did_you_mean(str(name), _PARTS) for name in self._params.keys() - _PARTS}
        found += [  # any other name is a subclass's own
            Error(f"{place} has {name}: {meant}", id="cloudq.E003")
            for name, meant in near.items()
            if meant
        ]
        if isinstance(self._params.get("QUEUES"), str):
            said = f"{place}: QUEUES is a text: give a list of names."
            found.append(Error(said, id="cloudq.E003"))
        return found


def priority_of(given: int) -> int:
    """Return cloudq's priority: 7 to 9 for what is above 0, 0 to 2 for what is below, else 5."""
    if not given:
        return _NORMAL
    step = (abs(given) - 1) * _LEVELS // _HIGHEST
    return 7 + step if given > 0 else 2 - step


def _due(run_after: datetime | None) -> float | None:
    if run_after is None:
        return None
    if is_naive(run_after):
        run_after = run_after.replace(tzinfo=get_default_timezone())
    return run_after.timestamp()
