"""The project's app as a module's attribute, as commands and the processes of workers find it."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import django
from django.apps import apps

from cloudq.contrib.django.conf import project_app

if not apps.ready and not apps.loading:
    django.setup()

app = project_app()
