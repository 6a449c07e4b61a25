"""Reports of failed tasks by Django's own mail: its backend, its server, its ADMINS."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from django.core import mail

from cloudq.monitoring.notifications import Failure


def mail_admins(failure: Failure) -> None:
    """Mail the report of a failed task to ADMINS, as Django mails errors of views.

    A notifier for `notify_failures`. EMAIL_BACKEND, EMAIL_HOST, SERVER_EMAIL and the like count;
    nothing is sent where there are no ADMINS. Raises what the mail backend raises.
    """
    send: Any = mail.mail_admins
    send(failure.subject, failure.text)
