"""cloudq in a Django project: `"cloudq.contrib.django"` in INSTALLED_APPS, and `CLOUDQ = {...}`.

`app` is the project's app, made from its settings at the first use. `CloudQBackend` is a backend
for the tasks of Django 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudq.app import CloudQ
    from cloudq.contrib.django.task_backend import CloudQBackend

    app: CloudQ

__all__ = ["CloudQBackend", "app"]


def __getattr__(name: str) -> object:
    if name == "app":  # not kept: tests may change the settings
        from cloudq.contrib.django.conf import project_app

        return project_app()
    if name == "CloudQBackend":
        from cloudq.contrib.django.task_backend import CloudQBackend

        return CloudQBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
