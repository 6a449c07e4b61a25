"""Tells what ends a process from what the user's code, or a library, raises in its stead."""

from __future__ import annotations

import threading


class Died(BaseException):
    """The death of a worker as a test plays it: nothing that it would do afterwards happens.

    It passes through whatever keeps a worker alive, as SIGKILL does.
    """


def pass_ends(error: BaseException) -> None:
    """Raise an error again if it ends the process; any other is that of what was done.

    Only the main thread gets signals: elsewhere `SystemExit` and `KeyboardInterrupt` are of the
    user's code. The panic of a library in Rust is no `Exception` either, and ends nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if isinstance(error, Died) or (is_main and isinstance(error, KeyboardInterrupt | SystemExit)):
        raise error
