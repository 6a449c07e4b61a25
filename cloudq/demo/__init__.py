"""The tasks that `cloudq demo` runs."""
