"""The task of `celery.contrib.testing.tasks`, by which tests see that a worker runs."""

from cloudq.contrib.celery.task import shared_task

__all__ = ["ping"]


@shared_task(name="celery.ping")
def ping() -> str:
    """Return "pong"."""
    return "pong"
