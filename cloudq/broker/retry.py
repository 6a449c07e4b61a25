"""Retries of a publish that a busy broker refused: a call's `retry` and `retry_policy`."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from cloudq.amounts import count, seconds
from cloudq.clock import grown
from cloudq.driver.immutable import immutable
from cloudq.errors import InvalidArguments, did_you_mean

# Celery's defaults for what a policy leaves out.
_POLICY: Mapping[str, float] = {
    "max_retries": 3,
    "interval_start": 0.0,
    "interval_step": 0.2,
    "interval_max": 1.0,
}


@immutable
class PublishPolicy:
    """The number of retries, and the pauses before them, in seconds.

    `most` None means as many as the app's setting, or 3 if that is 0. The first pause is `start`,
    each next one is `step` longer (None: twice as long), and none is longer than `longest`.
    """

    most: int | None = None
    start: float = 0.1
    step: float | None = None
    longest: float = inf

    def pause(self, number: int) -> float:
        """Return the seconds before a retry; the first has the number 0."""
        if self.step is None:
            return grown(self.start, number, self.longest)
        return min(self.start + self.step * number, self.longest)


def publish_policy(retry: bool | None, policy: Mapping[str, Any] | None) -> PublishPolicy | None:
    """Read a call's options `retry` and `retry_policy`, as Celery has them; None for neither.

    Raises `InvalidArguments`.
    """
    if retry is not None and not isinstance(retry, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArguments(
            f"retry is {retry!r}: it must be True or False; retry_policy says how often"
        )
    made = None if policy is None else _read(policy)
    if retry is False:
        return PublishPolicy(most=0)
    return PublishPolicy() if made is None and retry else made


def _read(policy: Mapping[str, Any]) -> PublishPolicy:
    if not isinstance(policy, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArguments(
            f'retry_policy is {policy!r}: give a mapping such as {{"max_retries": 5}}'
        )
    for name, value in policy.items():
        if name not in _POLICY:
            hint = did_you_mean(str(name), _POLICY, otherwise=f"known: {', '.join(_POLICY)}")
            raise InvalidArguments(f"retry_policy has no {name!r}: {hint}")
        (count if name == "max_retries" else seconds)(value, f"retry_policy: {name}")
    whole = {**_POLICY, **policy}
    return PublishPolicy(
        most=int(whole["max_retries"]),
        start=float(whole["interval_start"]),
        step=float(whole["interval_step"]),
        longest=float(whole["interval_max"]),
    )
