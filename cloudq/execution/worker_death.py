"""The death of a worker as a test plays it: it passes through whatever keeps a worker alive."""

from __future__ import annotations


class Died(BaseException):
    """The end of a worker as SIGKILL makes it: nothing that it would do afterwards happens."""
