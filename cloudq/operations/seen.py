"""Messages of queues and dead letters as an operator sees them: decoded, or with the problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain

from cloudq.app import CloudQ
from cloudq.driver import Peeked
from cloudq.errors import DecodeError, InvalidArguments, ServiceError
from cloudq.messages.bundle import Bundle, Unread
from cloudq.messages.encryption import header_of
from cloudq.messages.envelope import ENCRYPTED
from cloudq.messages.json_text import is_object
from cloudq.messages.message import TaskMessage
from cloudq.messages.redaction import Redaction
from cloudq.messages.values import from_wire
from cloudq.text import AsIs, describe, iso_time, json_text, masked, one_line, text_of

# An exception's class and a colon begin the reason of a task that failed.
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]{0,200}): ")
_CUT = "…"
_ELSEWHERE = ("$blob", "$file")
_CLAIM = re.compile(r'\{"\$blob":\{[^{}]*?"size":(\d{1,18})[^{}]*\}\}')
# Characters of which a few are shown: a stranger's megabytes must not keep an operator waiting.
_LOOKED_AT = 1000


def _no_redaction() -> Redaction:
    return Redaction((), {})


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A message of `queue`, decoded, or with the `problem` why it cannot be decoded.

    `message` is its call, None for one with the calls of a bundle; `calls` are those that can be
    read. `named` is the task that an encrypted message names in the open, which nobody has checked.
    """

    queue: str
    peeked: Peeked
    message: TaskMessage | None = None
    calls: Sequence[TaskMessage] = ()
    problem: str | None = None
    named: str | None = None
    redaction: Redaction = field(default_factory=_no_redaction, compare=False, repr=False)

    @property
    def shown(self) -> TaskMessage | None:
        """The message without what is secret in it, as it is shown."""
        return None if self.message is None else self._first

    @cached_property
    def shown_calls(self) -> list[TaskMessage]:
        """The calls without what is secret in them, as they are shown."""
        return [self._first, *map(self.redaction.message, self.calls[1:])] if self.calls else []

    @cached_property
    def _first(self) -> TaskMessage:
        return self.redaction.message(self.calls[0])

    @property
    def id(self) -> str:
        """The id of the task, or of the message if it has not one call."""
        return self.message.id if self.message else self.peeked.id

    @property
    def task(self) -> str:
        """The name of the task, or the names of those in the bundle."""
        return ", ".join(self.tasks)

    @property
    def tasks(self) -> Sequence[str]:
        """The names of its tasks, each once."""
        if self.named is not None:
            return [self.named]
        return list(dict.fromkeys(call.task for call in self.calls))

    @property
    def reason(self) -> str | None:
        """The reason of a dead letter; None for one that the service has moved by itself."""
        return self.peeked.reason

    @property
    def exception(self) -> str | None:
        """The class of the exception that a dead letter's reason begins with."""
        found = _EXCEPTION.match(self.peeked.reason or "")
        return found[1] if found else None

    @property
    def retries(self) -> int | None:
        """The number of retries of its call; None where it has not one."""
        return self.message.retries if self.message else None

    @property
    def body(self) -> str:
        """The body as text, for one that cannot be decoded, without what is secret in it."""
        return self.redaction.body(_text(self.peeked.body))

    def goes_by(self, id: str) -> bool:
        """Tell whether `id` names this message, or a call in it."""
        # An id with control characters is shown, and so copied, with them escaped.
        names = (self.peeked.id, *(call.id for call in self.calls))
        return any(id in (name, one_line(masked(text_of(name)))) for name in names)

    def arguments(self, longest: int = 40) -> str:
        """Return the arguments as written in Python, shortened, with secrets masked.

        Of a bundle those of its first call, and of what cannot be read the body.
        """
        if not self.calls:
            start = self.peeked.body[: _LOOKED_AT * 4]  # bytes of so many characters
            # Secrets in an object are known by their names, so it is read whole.
            text = self.body if start.lstrip()[:1] == b"{" else _text(start)
            return _short(masked(text, longest=_LOOKED_AT), longest)
        first = self._first
        write = partial(json_text, most=longest, longest=_LOOKED_AT)
        # As a mapping, so that a secret is known by its name.
        kwargs = masked(first.kwargs, most=longest, longest=_LOOKED_AT)
        given = (_place_of(value) or write(value) for value in first.args)
        named = (f"{key}={_place_of(value) or write(value)}" for key, value in kwargs.items())
        shown = _short(_joined(chain(given, named)), longest)
        if self.message is None:
            return _short(f"{len(self.calls)} calls: {shown}, ...", longest)
        return shown

    def as_json(self) -> dict[str, object]:
        """Return it as plain JSON: `message` without its secrets, or `body` if unreadable.

        One with the calls of a bundle has them in `calls`.
        """
        message = self.shown.changed() if self.shown else None
        calls = [call.changed() for call in self.shown_calls]
        return {
            "id": self.id,
            "message_id": self.peeked.id,
            "queue": self.queue,
            "task": self.task or None,
            "retries": self.retries,
            "sent_at": iso_time(self.peeked.sent_at),
            "reason": self.reason,
            "exception": self.exception,
            "message": AsIs(message),
            "problem": self.problem,
            "body": None if self.calls else AsIs(self.body),
            **({} if message or not calls else {"calls": AsIs(calls)}),
        }


def read(peeked: Peeked, app: CloudQ, queue: str) -> Seen:
    """Decode a message of a queue, or keep the reason why that fails."""
    rules = app.runtime.redaction
    try:
        found = app.runtime.codec.read(peeked.body, queue=queue, limit=app.conf.max_body)
    except (DecodeError, ServiceError) as error:
        named = _named(peeked.body)
        return Seen(
            queue=queue, peeked=peeked, problem=describe(error), named=named, redaction=rules
        )
    if not isinstance(found, Bundle):
        return Seen(queue=queue, peeked=peeked, message=found, calls=[found], redaction=rules)
    calls = [call for call in found.calls if not isinstance(call, Unread)]
    unread = [call.reason for call in found.calls if isinstance(call, Unread)]
    problem = f"{len(unread)} calls cannot be read: {unread[0]}" if unread else None
    return Seen(queue=queue, peeked=peeked, calls=calls, problem=problem, redaction=rules)


def _named(body: bytes) -> str | None:
    """Return the name of the task that an encrypted message tells everybody."""
    if not body.startswith(ENCRYPTED):
        return None
    try:
        name: object = header_of(body[1:]).get("task")
    except DecodeError:
        return None
    return name if isinstance(name, str) else None


def _place_of(value: object) -> str | None:
    """Tell the size of an argument that lies in the payload store; None of any other."""
    if not is_object(value) or len(value) != 1 or value.keys().isdisjoint(_ELSEWHERE):
        return None
    try:
        return repr(from_wire(value))
    except (DecodeError, InvalidArguments):
        return None


def without_claims(text: str) -> str:
    """Return JSON to show, with their sizes in the place of values in the payload store."""
    return _CLAIM.sub(lambda claim: f"<{int(claim[1]):,} bytes in the payload store>", text)


def _text(body: bytes) -> str:
    return body.decode(errors="backslashreplace")


def _joined(texts: Iterable[str]) -> str:
    """Join the first of these texts, as many as are looked at."""
    found: list[str] = []
    length = 0
    for text in texts:
        found.append(text)
        length += len(text)
        if length > _LOOKED_AT:
            break
    return ", ".join(found)


def _short(text: str, longest: int) -> str:
    flat = one_line(masked(" ".join(text.split())))
    return flat if len(flat) <= longest else flat[: longest - 1] + _CUT
