"""The questions that wait for their confirmation: who was asked, and for which things."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Set
from dataclasses import dataclass

Thing = tuple[str, str]
"""A thing that an action changes: its queue or its kind, and its id."""

_MOST_THINGS, _MOST = 200_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question in a session; `things` are those that were shown, None where there is one."""

    session: str
    action: str
    things: Set[Thing] | None


class Questions:
    """The questions of one dashboard, each answered once. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Question] = {}

    def ask(self, question: Question) -> str:
        """Keep a question, and return the word by which it is answered."""
        once = secrets.token_urlsafe(16)
        with self._lock:
            self._open[once] = question
            held = [len(one.things or ()) for one in self._open.values()]
            while len(held) > 1 and (len(held) > _MOST or sum(held) > _MOST_THINGS):
                del self._open[next(iter(self._open))]
                held.pop(0)
        return once

    def answer(self, once: str, session: str, action: str) -> Question | None:
        """Return a question of this session, which is over then; None if there is none."""
        with self._lock:
            found = self._open.get(once)
            if found is None or (found.session, found.action) != (session, action):
                return None
            return self._open.pop(once)
