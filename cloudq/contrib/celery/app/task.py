"""The names of `celery.app.task`."""

from cloudq.contrib.celery.context import Context
from cloudq.contrib.celery.task import Task

__all__ = ["Context", "Task"]
