"""Reads single keys from a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any, Self

ESCAPE, ENTER, BACKSPACE, CTRL_C = "\x1b", "\n", "\x7f", "\x03"


class Keys:
    """The keys that are pressed while it is entered. Without a terminal there are none."""

    def __init__(self) -> None:
        self._file = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        if self._file is not None:
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def read(self, wait: float) -> str:
        """Return the keys pressed, at most `wait` seconds from now; "" for none.

        A sequence that begins with escape, of an arrow say, is left out.
        """
        ready, _, _ = select.select([] if self._file is None else [self._file], [], [], wait)
        if not ready or self._file is None:
            return ""
        text = os.read(self._file, 1024).decode(errors="replace").replace("\r", ENTER)
        is_sequence = text.startswith(ESCAPE) and len(text) > 1
        return "" if is_sequence else text
