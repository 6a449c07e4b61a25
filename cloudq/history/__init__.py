"""What became of tasks, recorded as events in the order of their times.

`recording` makes the items that are stored along with outcomes, `reading` finds them again: the
last failures of one task are one query, whatever else the store holds.
"""

from cloudq.history.recording import Event, History, Level

__all__ = ["Event", "History", "Level"]
