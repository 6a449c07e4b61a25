"""Shows peeked messages as tables and as JSON, for `queues peek` and `dead`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.cli.output import safe, shorten, since, table
from cloudq.driver import Peeked
from cloudq.driver.adapters import adapter
from cloudq.errors import DecodeError
from cloudq.messages.bundle import Bundle, Unread
from cloudq.messages.message import TaskMessage
from cloudq.text import AsIs, describe, json_text, masked

_ARGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A peeked message, decoded, or with the reason why it cannot be decoded.

    `message` is its call, None for one with the calls of a bundle; `calls` are those that can be
    read.
    """

    peeked: Peeked
    message: TaskMessage | None = None
    calls: Sequence[TaskMessage] = ()
    problem: str | None = None

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
        return list(dict.fromkeys(call.task for call in self.calls))

    def goes_by(self, id: str) -> bool:
        """Tell whether `id` names this message, or a call in it."""
        # An id with control characters is shown, and so copied, with them escaped.
        names = (self.peeked.id, *(call.id for call in self.calls))
        return any(id in (name, safe(name)) for name in names)


def read(peeked: Peeked, app: CloudQ, queue: str) -> Seen:
    """Decode a message of a queue, or keep the reason why that fails."""
    try:
        found = app.runtime.codec.read(peeked.body, queue=queue, limit=app.conf.max_body)
    except DecodeError as error:
        return Seen(peeked=peeked, problem=describe(error))
    if not isinstance(found, Bundle):
        return Seen(peeked=peeked, message=found, calls=[found])
    calls = [call for call in found.calls if not isinstance(call, Unread)]
    unread = [call.reason for call in found.calls if isinstance(call, Unread)]
    problem = f"{len(unread)} calls cannot be read: {unread[0]}" if unread else None
    return Seen(peeked=peeked, calls=calls, problem=problem)


def as_json(seen: Seen) -> dict[str, object]:
    """Return a message as plain JSON: `message` as on the wire, or `body` if unreadable.

    One with the calls of a bundle has them in `calls`.
    """
    message = seen.message.changed() if seen.message else None
    bundle = {} if message or not seen.calls else {"calls": AsIs(dumped(seen))}
    return {
        "id": seen.id,
        "message_id": seen.peeked.id,
        "attempts": seen.peeked.attempts,
        "sent_at": seen.peeked.sent_at,
        "reason": seen.peeked.reason,
        "message": AsIs(message),
        "problem": seen.problem,
        "body": None if seen.calls else AsIs(seen.peeked.body.decode(errors="backslashreplace")),
        **bundle,
    }


def dumped(seen: Seen) -> list[dict[str, object]]:
    """Return the calls of a message as on the wire."""
    return [call.changed() for call in seen.calls]


def list_messages(messages: Sequence[Seen], *, dead: bool, empty: str) -> None:
    """Print a table of messages; dead ones with their reasons."""
    last = "REASON" if dead else "RETRIES"
    columns = ("ID", "TASK", "ARGUMENTS", "AGE", "TRIES", last)
    table(columns, [_row(seen, dead=dead) for seen in messages], empty=empty)


def backend_example(broker: str) -> str:
    """Return the end of a hint to set a backend: an example from the broker's adapter, if any."""
    url = adapter(broker).suggested_backend
    return "" if url is None else f", for example {url}"


def brief_arguments(message: TaskMessage, length: int = _ARGS) -> str:
    """Return the arguments of a call as written in Python, shortened."""
    positional = map(json_text, message.args)
    # As a mapping, so that a secret is known by its name.
    named = (f"{key}={json_text(value)}" for key, value in masked(message.kwargs).items())
    return shorten(", ".join((*positional, *named)), length)


def _row(seen: Seen, *, dead: bool) -> tuple[object, ...]:
    reason = seen.peeked.reason or "-"
    age = since(seen.peeked.sent_at)
    if not seen.calls:
        body = shorten(seen.peeked.body.decode(errors="backslashreplace"), _ARGS)
        last = reason if dead else "-"
        # The reason of a dead letter already says why it could not be decoded.
        task = "?" if dead and seen.peeked.reason else f"? {seen.problem}"
        return seen.id, task, body, age, seen.peeked.attempts, last
    first = seen.calls[0]
    last = reason if dead else first.retries
    shown = brief_arguments(first)
    if seen.message is None:
        shown = shorten(f"{len(seen.calls)} calls: {shown}, ...", _ARGS)
    return seen.id, seen.task, shown, age, seen.peeked.attempts, last
