"""The place of steps that lie in the result store, in a chain that a message carries."""

from __future__ import annotations

from typing import Any

from cloudq.tasks.signature import Node


class StoredSteps(Node[Any]):
    """The later steps of a long chain; `id` is that of the task that gives their value."""

    def __init__(self, more: str, at: int) -> None:
        super().__init__()
        self.more = more
        self.at = at

    def __repr__(self) -> str:
        return f"<steps {self.more} from {self.at}>"

    def _kind_dict(self) -> dict[str, Any]:
        return {"more": self.more, "at": self.at}
