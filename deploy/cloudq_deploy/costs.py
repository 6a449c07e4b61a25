"""Items of a cost estimate, and the assumptions that it is made on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """Assumptions of an estimate about a task."""

    seconds: float = 0.1
    """The time that a task runs."""
    together: int = 5
    """The tasks in one invocation, on average."""
    logged: int = 400
    """The bytes that a task logs, with the platform's own lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One item of an estimate, in dollars."""

    of: str
    amount: float


def total(costs: Sequence[Cost]) -> float:
    """Add up the items, in dollars."""
    return sum(cost.amount for cost in costs)
