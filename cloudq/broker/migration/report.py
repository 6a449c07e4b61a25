"""The counts of what a migration has done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Moved:
    """The counts of one queue: messages before, moved and left, with the reasons.

    `before` is the count when the migration was first started, None where the service does not
    count. `moved` includes earlier runs of the same command; `delayed` of them were moved before
    they were due. `repeats` were delivered again after they had been moved.
    """

    queue: str
    target: str
    before: int | None = None
    moved: int = 0
    delayed: int = 0
    earlier: int = 0
    repeats: int = 0
    uncertain: int = 0
    left: Counter[str] = field(default_factory=Counter[str])
    finished: bool = False

    @property
    def complete(self) -> bool:
        """Tell whether the source queue was read to its end, and nothing was left in it."""
        return self.finished and not self.left.total()


@dataclass(slots=True, kw_only=True)
class Report:
    """All queues of a migration."""

    queues: list[Moved] = field(default_factory=list[Moved])
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        return not self.interrupted and all(queue.complete for queue in self.queues)
