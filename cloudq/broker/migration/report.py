"""What a migration has done, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Moved:
    """One queue: what was in it, what was moved, and what was left, with the reasons.

    `before` is the count when the migration was first started, None where the service does not
    count. `moved` counts earlier runs of the same command too, `delayed` are those of them that
    were moved before they were due, and `repeats` were delivered again after they were moved.
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
        """Whether the source queue was seen to the end, and nothing was left in it."""
        return self.finished and not self.left.total()


@dataclass(slots=True, kw_only=True)
class Report:
    """All queues of a migration."""

    queues: list[Moved] = field(default_factory=list[Moved])
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        return not self.interrupted and all(queue.complete for queue in self.queues)
