"""Django's word for an installed application."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.signals import setting_changed

from cloudq.contrib.django import conf
from cloudq.contrib.django.checks import check_settings
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError

log = Log("cloudq.django")


class CloudQConfig(AppConfig):
    """Makes the project's app, so that shared tasks have one, and checks the settings."""

    name = "cloudq.contrib.django"
    label = "cloudq"
    verbose_name = "cloudq"

    def ready(self) -> None:
        """Make the app. Wrong settings are an error of the system check, and are logged."""
        checks.register(check_settings, "cloudq")
        if hasattr(django_settings, "TASKS"):
            with suppress(ModuleNotFoundError):  # before Django 6
                import_module("django.tasks")  # which registers Django's check of the backends
        setting_changed.connect(conf.forget, dispatch_uid="cloudq")
        try:
            conf.project_app()
        except ConfigurationError as error:
            log.error("%s", error)  # `manage.py check` says it too
