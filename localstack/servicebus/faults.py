"""Faults that a test has ordered: operations that fail on purpose."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["drop", "busy", "error", "deny", "hang"]
KINDS = ("drop", "busy", "error", "deny", "hang")
Operation = Literal["transfer", "disposition", "management", "attach", "any"]
OPERATIONS = ("transfer", "disposition", "management", "attach", "any")


@dataclass(slots=True, kw_only=True)
class Fault:
    """One ordered fault, and the number of times that it still occurs."""

    kind: Kind
    on: Operation = "any"
    nth: int = 1
    """The first operation that fails; 1 is the next one."""
    count: int = 1
    """Number of operations in a row that fail; 0: all until the faults are cleared."""
    after: bool = False
    """For a drop: let the operation take effect, so that only its answer is lost."""
    seconds: float = 0.0
    """For a hang: seconds without any answer."""
    entity: str | None = None
    """If set, only operations on this queue fail."""
    chance: float = 1.0
    """The share of those operations that fail."""
    seed: int = 0
    """Of the dice that `chance` is thrown with."""
    hits: int = 0
    seen: int = 0
    _dice: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.on not in OPERATIONS:
            raise ValueError(f"on is one of {', '.join(OPERATIONS)}, not {self.on!r}")
        if self.nth < 1 or self.count < 0 or self.seconds < 0:
            raise ValueError("nth must be 1 or more, and count and seconds 0 or more")
        if not 0 < self.chance <= 1:
            raise ValueError("chance must be above 0, and 1 at most")
        self._dice = random.Random(self.seed)

    def strikes(self, operation: str, entity: str) -> bool:
        """Count one operation, and tell whether it must fail."""
        if self.on not in ("any", operation):
            return False
        if self.entity is not None and self.entity.lower() != entity.lower():
            return False
        self.seen += 1
        if self.seen < self.nth or (self.count and self.hits >= self.count):
            return False
        if self.chance < 1 and self._dice.random() >= self.chance:
            return False
        self.hits += 1
        return True


@dataclass(slots=True)
class Faults:
    """The ordered faults that have not all occurred yet."""

    waiting: list[Fault] = field(default_factory=list[Fault])
    hung_until: float = 0.0

    def add(self, wanted: Mapping[str, Any]) -> Fault:
        """Add a fault from the body of a request. Raises `ValueError` or `TypeError`."""
        fault = Fault(**wanted)
        if fault.kind == "hang":
            self.hung_until = time.monotonic() + fault.seconds
            return fault
        if fault.kind == "deny":
            fault.count = wanted.get("count", 0)
        self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Clear all faults."""
        self.waiting.clear()
        self.hung_until = 0.0

    def strike(self, operation: Operation, entity: str) -> Fault | None:
        """Return the fault that this operation meets: a drop or a refusal."""
        for fault in self.waiting:
            if fault.kind in ("drop", "busy", "error") and fault.strikes(operation, entity):
                return fault
        return None

    def denies(self) -> bool:
        """Tell whether a token must be refused."""
        return any(f.kind == "deny" and f.strikes("any", f.entity or "") for f in self.waiting)

    def hang(self) -> float:
        """Return the seconds for which no request is answered yet."""
        return max(0.0, self.hung_until - time.monotonic())

    def shown(self) -> list[dict[str, Any]]:
        """The planned faults, as a reply shows them."""
        return [
            {name: value for name, value in asdict(fault).items() if name != "_dice"}
            for fault in self.waiting
        ]
