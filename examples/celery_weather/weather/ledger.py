"""A table that tasks write lines into; each process has a connection of its own."""

import os
import sqlite3

from weather.conf import settings


class Ledger:
    """One connection to the table."""

    def __init__(self):
        self.pid = os.getpid()
        self.connection = sqlite3.connect(
            settings.LEDGER, timeout=30, isolation_level=None, check_same_thread=False
        )
        self.connection.execute("CREATE TABLE IF NOT EXISTS lines (kind TEXT, line TEXT)")

    def write(self, kind, line):
        self.connection.execute("INSERT INTO lines VALUES (?, ?)", (kind, line))

    def lines(self, kind):
        found = self.connection.execute("SELECT line FROM lines WHERE kind = ?", (kind,))
        return sorted(line for (line,) in found)


_ledger = None


def ledger():
    """The connection of this process."""
    global _ledger
    if _ledger is None or _ledger.pid != os.getpid():
        _ledger = Ledger()
    return _ledger


def write(kind, line):
    ledger().write(kind, line)


def lines(kind):
    return ledger().lines(kind)
