"""Declarations that users write: tasks, their options, signatures, hooks and limits."""
