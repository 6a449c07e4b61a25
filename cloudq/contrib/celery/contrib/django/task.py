"""The name of `celery.contrib.django.task`: every task of cloudq has its methods."""

from cloudq.contrib.celery.task import Task as DjangoTask

__all__ = ["DjangoTask"]
