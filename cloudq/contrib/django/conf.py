"""Makes the project's app from Django's settings."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from cloudq.app import CloudQ
from cloudq.contrib.django.mail import mail_admins
from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.monitoring.notifications import notify_failures
from cloudq.settings import DECLARED, from_object
from cloudq.settings.sources import CELERY_NAMES

SETTING = "CLOUDQ"
PREFIX = "CLOUDQ_"
_OWN = frozenset({"app", "name", "mail_failures"})
_MAILS = notify_failures(mail_admins)  # of the process, so that no app mails twice


class DjangoCloudQ(CloudQ):
    """An app that also serves the queues of Django's setting TASKS, and those of Django's tasks."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.declared_queues: set[str] = set()
        """The queues of Django's tasks that this process knows."""

    def queues(self, task: str | None = None, *, priorities: bool = True) -> list[str]:
        """Name the queues that calls go to, and those that TASKS names for its backends."""
        found = super().queues(task, priorities=priorities)
        if task is not None:
            return found
        named = [*queues_of_tasks(), *sorted(self.declared_queues)]
        more = [name for name in named if name != "default"]
        if priorities and (levels := self.conf.priority_queues):
            from cloudq.tasks.priorities import queues_for

            more = queues_for(more, levels)
        return list(dict.fromkeys([*found, *more]))


def queues_of_tasks() -> list[str]:
    """Return the queues that the backends of cloudq in Django's setting TASKS have."""
    backends: Any = getattr(django_settings, "TASKS", None) or {}
    return [
        str(queue)
        for backend in backends.values()
        if _is_ours(str(backend.get("BACKEND", "")))
        for queue in backend.get("QUEUES", ())
    ]


def _is_ours(path: str) -> bool:
    """Say if a backend in TASKS is cloudq's, or of a class that derives from it."""
    try:
        kind: type[Any] = import_string(path)
    except ImportError:  # Django says so
        return False
    return any(each.__module__ == "cloudq.contrib.django.task_backend" for each in kind.__mro__)


def given() -> dict[str, Any]:
    """Return the settings of cloudq in Django's, by their names in lower case.

    They are the items of `CLOUDQ`, and what begins with `CLOUDQ_`. Raises `ConfigurationError`
    for a setting that is unknown or given twice.
    """
    whole: Any = getattr(django_settings, SETTING, {})
    if not isinstance(whole, Mapping):
        raise ConfigurationError(f"{SETTING} is {whole!r:.60}: give a dict, as CLOUDQ = {{...}}")
    items: dict[Any, Any] = {**whole}
    named: list[tuple[str, str, Any]] = [
        (f"{SETTING}[{name!r}]", str(name).lower(), value) for name, value in items.items()
    ]
    named += [
        (name, name.removeprefix(PREFIX).lower(), getattr(django_settings, name))
        for name in dir(django_settings)
        if name.startswith(PREFIX)
    ]
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, theirs, value in named:
        name = CELERY_NAMES.get(theirs, theirs)
        _check_name(place, name)
        if name in found:
            raise ConfigurationError(f"{place} and {places[name]} are one setting: give one")
        found[name], places[name] = value, place
    return found


def _check_name(place: str, name: str) -> None:
    known = [*DECLARED, *_OWN]
    if name not in known:
        hint = did_you_mean(name, known, otherwise="the page Settings lists all")
        raise ConfigurationError(f"{place}: there is no setting {name!r}: {hint}")


def celery_settings() -> list[str]:
    """Return the names of Celery's settings in Django's, where no app is named to read them."""
    names = [name for name in dir(django_settings) if name.startswith("CELERY_")]
    return [] if given().get("app") else names


def _listed(value: Any) -> Any:
    """Return a list in place of a tuple, which settings files often have."""
    return [*value] if isinstance(value, tuple) else value


@cache
def project_app() -> CloudQ:
    """Return the project's app, which `CLOUDQ["APP"]` names, or which is made from the settings.

    It is the app of shared tasks. Naive times are in Django's TIME_ZONE unless the settings of
    cloudq say otherwise. Raises `ConfigurationError`.
    """
    values = {name: _listed(value) for name, value in given().items()}
    path, name = values.pop("app", None), values.pop("name", None)
    mails = values.pop("mail_failures", False)
    if path is not None:
        app = _imported(path)
    else:
        app = DjangoCloudQ(name or _project_name())
        app.autodiscover_tasks()
    if "timezone" not in values and "timezone" not in app.conf.given:
        values["timezone"] = django_settings.TIME_ZONE or "UTC"
    # Not the method of a Celery project's app, which forgets the source that it had before.
    CloudQ.config_from_object(app, from_object(values))
    if mails and _MAILS not in app.middleware:
        app.middleware.append(_MAILS)
    app.set_default()
    return app


def _imported(path: object) -> CloudQ:
    module, _, attribute = str(path).partition(":")
    try:
        app = getattr(import_module(module), attribute or "app", None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f'CLOUDQ["APP"]: there is no module {module!r}') from error
    if not isinstance(app, CloudQ):
        raise ConfigurationError(
            f'CLOUDQ["APP"] is {path!r}, which is no app: name one, as "mysite.queue:app"'
        )
    return app


def _project_name() -> str:
    """Return the name of the project's package, by which its workers and schedules are known."""
    module = os.environ.get("DJANGO_SETTINGS_MODULE") or getattr(
        django_settings, "ROOT_URLCONF", None
    )
    return str(module or "django").partition(".")[0]


def forget(*, setting: str, **_more: object) -> None:
    """Make the app anew at its next use: what tests do who change a setting of cloudq."""
    if setting == SETTING or setting.startswith(PREFIX):
        project_app.cache_clear()
