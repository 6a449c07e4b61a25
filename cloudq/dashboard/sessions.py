"""Sessions of browsers: signed, renewed at sign-in, gone at sign-out; and their CSRF tokens."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudq.dashboard.access import User

SESSION, KNOWN = "cloudq_session", "cloudq_known"
"""The names of the cookies: of the session, and of a browser in which somebody has signed in."""

IDLE, LONGEST = 8 * 3600.0, 24 * 3600.0
"""Seconds until a session ends that nobody uses, and in any case."""

_MOST = 10_000


@dataclass(slots=True, kw_only=True)
class Session:
    """One browser's session. `user` is None until somebody has signed in."""

    id: str
    csrf: str
    user: User | None
    began: float
    used: float
    notices: list[str] = field(default_factory=list[str])


class Sessions:
    """The sessions of one dashboard, in its memory. Safe to use from many threads.

    A cookie that was sent again after its session has ended is one of no session.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def begin(self, user: User | None) -> Session:
        """Begin a session, whose id and token are new."""
        now = self._now()
        id = secrets.token_urlsafe(32)
        made = Session(id=id, csrf=self._signed(f"csrf:{id}"), user=user, began=now, used=now)
        with self._lock:
            if len(self._sessions) >= _MOST:
                self._make_room(now)
            self._sessions[id] = made
        return made

    def cookie(self, session: Session) -> str:
        """Return the value of a session's cookie."""
        return f"{session.id}.{self._signed(session.id)}"

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None for one that is forged, too old, or has ended."""
        id, _, signature = cookie.partition(".")
        expected = self._signed(id).encode()
        if not hmac.compare_digest(signature.encode(errors="replace"), expected):
            return None
        now = self._now()
        with self._lock:
            found = self._sessions.get(id)
            if found is None:
                return None
            if self._is_over(found, now):
                del self._sessions[id]
                return None
            found.used = now
            return found

    def end(self, session: Session) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(session.id, None)

    def checks(self, session: Session, token: str) -> bool:
        """Tell whether a CSRF token is that of this session."""
        return hmac.compare_digest(token.encode(errors="replace"), session.csrf.encode())

    def recognised(self, name: str) -> str:
        """Return the value of a cookie for a browser in which this name has signed in."""
        id = secrets.token_urlsafe(16)
        return f"{id}.{self._signed(f'known:{id}:{name}')}"

    def recognises(self, cookie: str, name: str) -> str:
        """Return the id of a browser in which this name has signed in; "" of any other."""
        id, _, signature = cookie.partition(".")
        expected = self._signed(f"known:{id}:{name}").encode()
        fits = hmac.compare_digest(signature.encode(errors="replace"), expected)
        return id if fits else ""

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).hexdigest()

    @staticmethod
    def _is_over(session: Session, now: float) -> bool:
        return now - session.used > IDLE or now - session.began > LONGEST

    def _make_room(self, now: float) -> None:
        """Drop what is over, and then sessions of nobody; those of users only if they must go."""
        kept = {id: one for id, one in self._sessions.items() if not self._is_over(one, now)}
        oldest = sorted(kept.values(), key=_worth)
        for one in oldest[: max(0, len(kept) - _MOST // 2)]:
            del kept[one.id]
        self._sessions = kept


def _worth(session: Session) -> tuple[bool, float]:
    return session.user is not None, session.used
