"""Finds out whether a body takes the code where no body before it has been."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_ROOTS = tuple(f"{Path(__file__).parents[2] / name}/" for name in ("cloudq/", "adapters/"))


class Arcs:
    """The steps from line to line that were seen in the code of cloudq, in this thread.

    A trace takes many times as long as the run itself: look at a part of the bodies.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[CodeType, int, int]] = set()
        self._ours: dict[CodeType, bool] = {}
        self._new = 0

    def __len__(self) -> int:
        return len(self._seen)

    def new_in(self, run: Callable[[], object]) -> int:
        """Run, and return the number of steps that were never seen before."""
        self._new = 0
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            run()
        finally:
            sys.settrace(before)
        return self._new

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        is_ours = self._ours.get(code)
        if is_ours is None:
            is_ours = self._ours[code] = code.co_filename.startswith(_ROOTS)
        if not is_ours:
            return None
        frame.f_trace_opcodes = False
        last = 0
        seen = self._seen

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            line = frame.f_lineno if event != "exception" else -frame.f_lineno
            arc = (code, last, line)
            if arc not in seen:
                seen.add(arc)
                self._new += 1
            last = line
            return step

        return step
