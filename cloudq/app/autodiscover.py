"""Finds the modules of tasks by their name in each package: Celery's `autodiscover_tasks`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from cloudq.errors import ConfigurationError
from cloudq.settings.sources import check_module

Packages = Iterable[str] | Callable[[], Iterable[str]] | None


def discover(packages: Packages, related_name: str | None) -> list[str]:
    """Import `package.related_name` of each package that has it; the names of what was imported.

    Packages left out are those of Django's INSTALLED_APPS. Without a `related_name` the packages
    themselves are imported. Raises `ConfigurationError` for a package that there is not; what an
    import raises passes through.
    """
    if packages is None:
        names = list(_installed_apps())
    else:
        names = list(packages() if callable(packages) else packages)
    found: list[str] = []
    for package in names:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            if not f"{package}.".startswith(f"{error.name}."):
                raise
            raise ConfigurationError(
                f"autodiscover_tasks: there is no package {package!r}"
            ) from error
        module = package if related_name is None else f"{package}.{related_name}"
        if related_name is not None and not _exists(module, package):
            continue
        import_module(module)
        found.append(module)
    return found


def _exists(module: str, package: str) -> bool:
    if not hasattr(sys.modules[package], "__path__"):
        return False  # a plain module has no modules in it
    return find_spec(module) is not None


def _installed_apps() -> Iterable[str]:
    """The packages of Django's apps; none where this is no Django program."""
    if "django" not in sys.modules and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return ()
    try:
        django: Any = import_module("django")
        registry: Any = import_module("django.apps").apps
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "DJANGO_SETTINGS_MODULE is set and Django is not installed: pip install django"
        ) from error
    if not registry.ready:
        django.setup()
    return [config.name for config in registry.get_app_configs()]


def include(modules: Iterable[str]) -> None:
    """Import the modules of the setting `include`. Raises `ConfigurationError`."""
    for module in modules:
        check_module(module, "include")
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"include: cannot import {module!r}: {error}") from error
