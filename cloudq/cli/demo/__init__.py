"""The job that `cloudq demo` runs, its tasks, and the display of its progress."""
