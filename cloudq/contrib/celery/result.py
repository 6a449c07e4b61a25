"""The names of `celery.result`."""

from cloudq.contrib.celery.current import AsyncResult, GroupResult
from cloudq.contrib.celery.results import CeleryEagerResult as EagerResult
from cloudq.contrib.celery.results import result_from_tuple
from cloudq.results.groups import ResultSet
from cloudq.results.waiting import allow_join_result, denied_join_result

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "allow_join_result",
    "denied_join_result",
    "result_from_tuple",
]
