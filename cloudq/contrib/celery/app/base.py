"""The name of `celery.app.base`."""

from cloudq.contrib.celery.app import Celery

__all__ = ["Celery"]
