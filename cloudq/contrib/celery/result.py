"""The names of `celery.result`."""

from cloudq.contrib.celery.current import AsyncResult, GroupResult
from cloudq.results.groups import ResultSet
from cloudq.results.result import EagerResult

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "ResultSet"]
