"""Tells wrong settings through Django's system checks."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from cloudq.contrib.django.conf import celery_settings, project_app
from cloudq.driver.loader import installed
from cloudq.errors import ConfigurationError


def check_settings(app_configs: Sequence[object] | None = None, **_more: Any) -> list[CheckMessage]:
    """Check that the project's app can be made: `cloudq.E001`, and for each URL `cloudq.E002`.

    `cloudq.W001` warns of a broker or a store in memory, which no worker shares, `cloudq.W002` of
    settings of Celery that nothing reads.
    """
    try:
        conf = project_app().conf
    except ConfigurationError as error:
        return [Error(str(error), id="cloudq.E001")]
    found: list[CheckMessage] = []
    unread = celery_settings()
    if unread:
        hint = 'Name the app of cloudq.contrib.celery, as CLOUDQ = {"APP": "mysite.celery:app"}.'
        said = f"{', '.join(unread)}: nothing reads these: shared tasks are of the app of CLOUDQ."
        found.append(Warning(said, hint=hint, id="cloudq.W002"))
    for kind, url in (("broker", conf.broker), ("backend", conf.backend_url)):
        if url is None:
            continue
        scheme = url.partition(":")[0]
        known = sorted({entry.name for entry in installed(kind)})
        if scheme not in known:
            said = f"{kind}: there is none for {scheme!r}: installed are {', '.join(known)}"
            found.append(Error(said, id="cloudq.E002"))
        elif scheme == "memory" and not conf.task_always_eager:
            hint = "Use a file, as sqlite:///cloudq.db, or a cloud's queue; tests may use memory."
            said = f"{kind}: memory: exists in one process alone, and no worker shares it."
            found.append(Warning(said, hint=hint, id="cloudq.W001"))
    return found
