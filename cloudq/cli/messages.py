"""Shows peeked messages as tables and as JSON, for `queues peek` and `dead`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.cli.output import shorten, since, table
from cloudq.driver import Peeked
from cloudq.driver.adapters import adapter
from cloudq.errors import DecodeError
from cloudq.messages.json_text import json_text
from cloudq.messages.message import TaskMessage

_ARGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A peeked message, decoded, or with the reason why it cannot be decoded."""

    peeked: Peeked
    message: TaskMessage | None = None
    problem: str | None = None

    @property
    def id(self) -> str:
        """The id of the task, or of the message if it could not be decoded."""
        return self.message.id if self.message else self.peeked.id

    @property
    def task(self) -> str:
        return self.message.task if self.message else ""

    def goes_by(self, id: str) -> bool:
        """Tell whether `id` names this message."""
        return id in (self.id, self.peeked.id)


def read(peeked: Peeked, app: CloudQ, queue: str) -> Seen:
    """Decode a message of a queue, or keep the reason why that fails."""
    try:
        return Seen(
            peeked=peeked,
            message=app.runtime.codec.decode(peeked.body, queue=queue, limit=app.conf.max_body),
        )
    except DecodeError as error:
        return Seen(peeked=peeked, problem=str(error))


def as_json(seen: Seen) -> dict[str, object]:
    """Return a message as plain JSON: `message` as on the wire, or `body` if unreadable."""
    message = seen.message.model_dump(exclude_defaults=True) if seen.message else None
    return {
        "id": seen.id,
        "message_id": seen.peeked.id,
        "attempts": seen.peeked.attempts,
        "sent_at": seen.peeked.sent_at,
        "reason": seen.peeked.reason,
        "message": message,
        "problem": seen.problem,
        "body": None if message else seen.peeked.body.decode(errors="backslashreplace"),
    }


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
    positional = [json_text(arg).decode() for arg in message.args]
    named = [f"{key}={json_text(value).decode()}" for key, value in message.kwargs.items()]
    return shorten(", ".join((*positional, *named)), length)


def _row(seen: Seen, *, dead: bool) -> tuple[object, ...]:
    reason = seen.peeked.reason or "-"
    age = since(seen.peeked.sent_at)
    if seen.message is None:
        body = shorten(seen.peeked.body.decode(errors="backslashreplace"), _ARGS)
        last = reason if dead else "-"
        # The reason of a dead letter already says why it could not be decoded.
        task = "?" if dead and seen.peeked.reason else f"? {seen.problem}"
        return seen.id, task, body, age, seen.peeked.attempts, last
    last = reason if dead else seen.message.retries
    shown = brief_arguments(seen.message)
    return seen.id, seen.message.task, shown, age, seen.peeked.attempts, last
