"""Decides for each message whether the target can take it unchanged, and how it is sent there."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from cloudq.broker.migration.journal import Entry
from cloudq.driver import Limits, Outgoing
from cloudq.errors import DecodeError
from cloudq.messages.body import decode
from cloudq.messages.bundle import START, Bundle, Unread
from cloudq.messages.codec import Codec
from cloudq.messages.envelope import form_of
from cloudq.messages.message import TaskMessage

# The largest body to decode, in bytes; brokers take less.
_MAX_BODY = 64 << 20
# A message that is due within so many seconds is sent without a delay.
_DUE = 0.5
_PLAIN = Codec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """The rules of one target queue. With `stores_delayed` a backend keeps its delayed messages.

    `codec` is the app's: it reads signed, compressed or foreign messages, as a worker of the
    target queue will. Without one only plain messages are read.
    """

    queue: str
    limits: Limits
    stores_delayed: bool
    raw: bool
    token: str
    codec: Codec | None = None

    def judge(
        self, entry: Entry, body: bytes, *, group: str | None, due: float = 0.0, place: str = ""
    ) -> Outgoing | str:
        """Return the message to send to the target, or the reason why it stays in the source.

        `due` is its time of delivery there, in epoch seconds; `place` is its handle in the source,
        if it has one.
        """
        message = self.read(body)
        if isinstance(message, str):
            if not self.raw:
                return message
            message = None
        if message is None and not _is_text(body):
            return "no text, and some brokers take nothing else"
        if len(body) > self.limits.body:
            return f"larger than the {self.limits.body:,} bytes that the target takes"
        if message is not None:
            group, due = message.group_key or group, max(due, message.not_before or 0.0)
        if group is not None and not self.limits.ordered:
            return "has a group_key, and the target queue keeps no order"
        if message is not None and message.dedup_key is not None and not self.limits.dedup_window:
            return "has a dedup_key, and the target queue does not deduplicate"
        delay = due - time.time()
        delay = delay if delay > _DUE else 0.0
        late = self._too_late(message, delay)
        if late is not None:
            return late
        return Outgoing(
            id=entry.id,
            body=body,
            delay=min(delay, self.limits.max_delay) if self.limits.max_delay else delay,
            group=group,
            dedup=self._dedup(entry, place) if self.limits.dedup_window else None,
        )

    def read(self, body: bytes) -> TaskMessage | str:
        """Decode the task message in a body, or return the reason why it cannot be read.

        Of the calls of a bundle it is the first that can be read: they have one ordering key, and
        none is delayed.
        """
        try:
            if self.codec is None and not body.startswith(START):
                return decode(body, limit=_MAX_BODY)
            read = (self.codec or _PLAIN).read(body, queue=self.queue, limit=_MAX_BODY)
            calls = read.calls if isinstance(read, Bundle) else [read]
            for call in calls:
                if not isinstance(call, Unread):
                    return call
            return "none of the calls of its bundle can be read: --raw moves it as it is"
        except DecodeError as error:
            why = str(error)
        form = form_of(body)
        if form is None and (self.codec is None or not _is_plain(body)):
            return "no task message: --raw moves it as it is"
        if self.codec is None:
            return f"{form}: -A names the app that can read it, --raw moves it as it is"
        return f"no worker of the app could read it in {self.queue!r}: {why}"

    def _too_late(self, message: TaskMessage | None, delay: float) -> str | None:
        if not delay or self.stores_delayed or 0 < delay <= self.limits.max_delay:
            return None
        if not self.limits.max_delay:
            return "is delayed, and the target queue cannot delay: --backend URL would keep it"
        # A worker that receives it too early re-sends it, by the time in the message.
        if message is not None and message.not_before is not None:
            return None
        return f"is delayed for longer than the {self.limits.max_delay:g} s that the target can"

    def _dedup(self, entry: Entry, place: str) -> str:
        """Return a key that lets the target drop a second try, but not a move of another run.

        The message's own key did its work when the source took it. In the target it could only
        make a message vanish: one that was there less than five minutes ago, or a second one with
        that key, sent later.
        """
        when = repr(entry.sent_at)
        parts = (self.token, self.queue, entry.id, entry.digest.hex(), when, place)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_plain(body: bytes) -> bool:
    """Tell whether this is a plain task message."""
    try:
        decode(body, limit=_MAX_BODY)
    except DecodeError:
        return False
    return True


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return bool(body)
