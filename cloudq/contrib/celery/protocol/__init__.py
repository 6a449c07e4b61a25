"""Celery's message protocol 2: reads and writes the messages of Celery's producers and workers."""

from __future__ import annotations

from cloudq.contrib.celery.protocol.reading import fields, is_celery, read
from cloudq.contrib.celery.protocol.writing import write
from cloudq.messages.formats import MessageFormat
from cloudq.messages.message import CELERY

FORMAT = MessageFormat(
    name=CELERY, title="Celery", read=read, write=write, recognizes=is_celery, fields=fields
)
