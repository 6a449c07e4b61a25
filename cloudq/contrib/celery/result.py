"""The names of `celery.result`."""

from cloudq.canvas.results import ResultSet
from cloudq.contrib.celery.current import AsyncResult, GroupResult
from cloudq.result import EagerResult

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "ResultSet"]
