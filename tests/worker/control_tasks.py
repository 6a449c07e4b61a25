"""The app of the control tests: the drill tasks, and commands of its own."""

from __future__ import annotations

import sys
from typing import Any

from drill_tasks import app  # found through PYTHONPATH, as a user's module is

LEVELS: dict[str, int] = {}


def nowhere(name: str, *_: Any, **__: Any) -> None:
    """A route that leaves all to the next; settings may be functions."""


app.configure(task_routes=[nowhere])


@app.control.control_command(args=[("level", int)])
def set_level(state: Any, level: int = 1) -> dict[str, int]:
    """Set a level, kept in the worker."""
    if level > 9:
        raise ValueError(f"level {level} is above 9")
    if level == 0:
        sys.exit("level 0 is none")
    LEVELS[state.hostname] = level
    return {"ok": level}


@app.control.inspect_command()
def levels(state: Any) -> dict[str, Any]:
    """The level that was set."""
    return {"level": LEVELS.get(state.hostname), "tasks": len(state.app.tasks)}
