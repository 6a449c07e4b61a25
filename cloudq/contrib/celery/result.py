"""The names of `celery.result`."""

from cloudq.contrib.celery.current import AsyncResult, GroupResult
from cloudq.results.eager import EagerResult
from cloudq.results.groups import ResultSet
from cloudq.results.waiting import allow_join_result, denied_join_result

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "allow_join_result",
    "denied_join_result",
]
