"""An archive of the weather: stations are read, days are summed up, reports are written."""

from .celery import app as celery_app

__all__ = ("celery_app",)
