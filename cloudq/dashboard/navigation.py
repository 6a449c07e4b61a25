"""The pages that the navigation leads to, with the letters that lead there after a `g`."""

from __future__ import annotations

NAVIGATION: tuple[tuple[str, str, str], ...] = (
    ("/", "Overview", "o"),
    ("/tasks", "Tasks", "t"),
    ("/queues", "Queues", "q"),
    ("/dead", "Dead letters", "d"),
    ("/workers", "Workers", "w"),
    ("/schedules", "Schedules", "s"),
    ("/workflows", "Workflows", "f"),
    ("/cost", "Cost", "c"),
    ("/audit", "Audit", "a"),
)
"""Path, title and letter."""
