"""For tests of a Django project: its calls go to memory, and run in the test when it says so."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest import TestCase

from cloudq.app import CloudQ
from cloudq.contrib.django.conf import project_app
from cloudq.testing import drain, in_memory


class CloudQTestMixin(TestCase):
    """Puts the project's app on a broker in memory for each test of a Django `TestCase`.

    `run_tasks()` runs all that was sent, in the test's own thread: it sees the rows of the test's
    transaction. What `delay_on_commit` holds back is sent by Django's
    `self.captureOnCommitCallbacks(execute=True)`.
    """

    cloudq: CloudQ

    def setUp(self) -> None:
        """Open the app in memory; it is closed after the test."""
        self.cloudq = self.enterContext(tasks_in_memory())
        super().setUp()

    def run_tasks(self) -> int:
        """Run what was sent, and what that sends, until nothing is due; return how many ran."""
        return len(drain(self.cloudq))


@contextmanager
def tasks_in_memory(**settings: Any) -> Generator[CloudQ]:
    """Put the project's app on a broker and a store in memory for a block."""
    app = project_app()
    app.load()
    with in_memory(app, **settings):
        yield app
