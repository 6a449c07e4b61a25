"""The app that a program makes: its tasks, its settings, and the calls it sends."""

from cloudq.app.app import CloudQ

__all__ = ["CloudQ"]
