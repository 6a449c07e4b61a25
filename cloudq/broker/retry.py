"""How often a message that a busy broker refused is sent again: a call's `retry_policy`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from cloudq.errors import InvalidArguments

# Celery's defaults of a policy that leaves something out.
_POLICY: Mapping[str, float] = {
    "max_retries": 3,
    "interval_start": 0.0,
    "interval_step": 0.2,
    "interval_max": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPolicy:
    """Send again `most` times (None: as often as the app's calls, or 3 times where they are not).

    The first pause is `start` s, and each next one `step` s longer (None: twice as long), none
    longer than `longest`.
    """

    most: int | None = None
    start: float = 0.1
    step: float | None = None
    longest: float = inf

    def pause(self, number: int) -> float:
        """Seconds before the retry of this number, the first being 0."""
        if self.step is None:
            return min(self.start * 2.0**number, self.longest)
        return min(self.start + self.step * number, self.longest)


def publish_policy(retry: bool | None, policy: Mapping[str, Any] | None) -> PublishPolicy | None:
    """What a call says of its publishing, as Celery's `retry` and `retry_policy`; None: nothing.

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
            close = difflib.get_close_matches(str(name), _POLICY, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(_POLICY)}"
            raise InvalidArguments(f"retry_policy has no {name!r}: {hint}")
        kind, what = (int, "a whole number") if name == "max_retries" else (int | float, "seconds")
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value < inf:
            raise InvalidArguments(f"retry_policy: {name} is {value!r}: give {what} from 0 on")
    whole = {**_POLICY, **policy}
    return PublishPolicy(
        most=int(whole["max_retries"]),
        start=float(whole["interval_start"]),
        step=float(whole["interval_step"]),
        longest=float(whole["interval_max"]),
    )
