"""Periodic tasks: when they are due, the beat that sends them, and the clouds' own schedulers."""
