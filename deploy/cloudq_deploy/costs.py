"""What running tasks costs: items of an estimate, and what it takes for granted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the estimate takes for granted of a task."""

    seconds: float = 0.1
    """How long one runs."""
    together: int = 5
    """How many come in one invocation, on average."""
    logged: int = 400
    """Bytes that one logs, Lambda's own lines included."""

    def __str__(self) -> str:
        return (
            f"a task runs {self.seconds:g} s, logs {self.logged} B and is sent by itself; "
            f"{self.together} come in one invocation; message and record are under 1 KB; each "
            "result is read once; list prices of us-east-1 in USD, no free tier"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One item, in dollars."""

    of: str
    amount: float


def total(costs: Sequence[Cost]) -> float:
    """The sum, in dollars."""
    return sum(cost.amount for cost in costs)
