"""The worker's processes: their start, their jobs, their deaths."""
