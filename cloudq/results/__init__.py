"""The stored side of a task: its record, its events, and the handle its caller holds."""
