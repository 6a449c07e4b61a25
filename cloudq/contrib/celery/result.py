"""The names of `celery.result`."""

from cloudq.contrib.celery.current import AsyncResult, GroupResult
from cloudq.contrib.celery.results import CeleryEagerResult as EagerResult
from cloudq.contrib.celery.results import result_from_tuple
from cloudq.results.eager import EagerResult as CoreEagerResult
from cloudq.results.groups import ResultSet
from cloudq.results.result import AsyncResult as CoreResult
from cloudq.results.waiting import allow_join_result, denied_join_result


class _AnyResult(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, CoreResult | CoreEagerResult | ResultSet)


class ResultBase(metaclass=_AnyResult):
    """Every result is an instance of it."""


__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "denied_join_result",
    "result_from_tuple",
]
