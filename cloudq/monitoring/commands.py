"""Sends commands to workers and collects their replies, both as items of the result store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from cloudq.driver import Code, Item, Key
from cloudq.errors import BackendError, ConfigurationError, EncodeError
from cloudq.messages.json_text import is_object, json_text
from cloudq.messages.message import new_id
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.results.backend import Backend
from cloudq.results.looker import LOOK_EVERY

# Characters. A command is part of its worker's item, which every heartbeat writes again.
_LONGEST = 16_384
# Seconds; callers stop waiting for replies long before.
_REPLY_KEPT = 300.0
_PAGE = 100
# Seconds a worker may take to run a command and reply, beside its heartbeat interval.
SLACK = 5.0

Reply = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command as it is stored for a worker. Times are epoch seconds.

    A worker that reads it after `expires` ignores it. It replies only if `reply` is set.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sent: float = 0.0
    expires: float = 0.0
    reply: bool = True

    def to_text(self) -> str:
        """The command as JSON. Raises `ConfigurationError` if it is not JSON or too long."""
        try:
            text = json_text(self).decode()
        except EncodeError as error:
            raise ConfigurationError(
                f"command {self.name}: its arguments are not JSON: {error}"
            ) from error
        if len(text) > _LONGEST:
            raise ConfigurationError(
                f"command {self.name}: its arguments are {len(text)} characters, and "
                f"{_LONGEST} at most can be sent: name fewer at a time"
            )
        return text

    @classmethod
    def of(cls, text: str) -> Command | None:
        """Parse a command from JSON; None if it is none, or a newer release wrote it otherwise."""
        try:
            read: object = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        given = (
            {key: value for key, value in read.items() if key in _KINDS} if is_object(read) else {}
        )
        if not {"id", "name"} <= given.keys():
            return None
        if not all(type(value) in _KINDS[key] for key, value in given.items()):
            return None
        return cls(**given)


_KINDS: Mapping[str, Sequence[type[Any]]] = {
    "id": (str,),
    "name": (str,),
    "arguments": (dict,),
    "sent": (float, int),
    "expires": (float, int),
    "reply": (bool,),
}


def send(heartbeats: Heartbeats, workers: Sequence[Heartbeat], command: Command) -> list[Heartbeat]:
    """Store the command for these workers; returns those that still exist. One request each."""
    text = command.to_text()
    return [heart for heart in workers if heartbeats.tell(heart.hostname, text)]


def make(name: str, arguments: Mapping[str, Any], *, lasts: float, reply: bool) -> Command:
    """Make a command that expires after `lasts` seconds."""
    now = time.time()
    return Command(
        id=new_id(), name=name, arguments=arguments, sent=now, expires=now + lasts, reply=reply
    )


def answer(backend: Backend, command: Command, hostname: str, reply: object) -> None:
    """Store a reply for the sender of the command. One request. Raises `BackendError`."""
    try:
        text = json_text(reply, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except EncodeError as error:
        text = json_text({"error": f"the reply {error}"}).decode()
    failed = backend.put([_reply(command, hostname, text)])
    if failed and failed[0].code in (Code.TOO_LARGE, Code.INVALID):
        shorter = json_text({"error": f"the reply is {len(text)} bytes: too large to store"})
        failed = backend.put([_reply(command, hostname, shorter.decode())])
    if failed:
        raise BackendError(
            f"the reply to command {command.name} was not stored: {failed[0].reason}",
            code=failed[0].code,
        )


def collect(
    backend: Backend,
    command: Command,
    expected: Sequence[str],
    *,
    timeout: float,
    heard: Callable[[str, Any], None] | None = None,
) -> dict[str, Any]:
    """Wait for the replies of these workers: hostname -> reply. One query a poll.

    Workers that have not replied after `timeout` seconds are left out. `heard` is called with
    each reply as it arrives.
    """
    deadline = time.monotonic() + timeout
    found: dict[str, Any] = {}
    watcher = backend.watch()
    try:
        while True:
            for hostname, reply in _replies(backend, command, skip=found):
                found[hostname] = reply
                if heard is not None:
                    heard(hostname, reply)
            left = deadline - time.monotonic()
            if left <= 0 or found.keys() >= set(expected):
                return found
            watcher.wait(min(left, LOOK_EVERY) if backend.wakes else left)
    finally:
        watcher.close()


def _reply(command: Command, hostname: str, text: str) -> Item:
    return Item(
        key=Key(f"reply#{command.id}", hostname),
        fields={"reply": text},
        expires=time.time() + _REPLY_KEPT,
    )


def _read(item: Item) -> Any:
    text = item.fields.get("reply")
    try:
        return orjson.loads(text) if isinstance(text, str) else {"error": "no readable reply"}
    except orjson.JSONDecodeError as error:
        return {"error": f"no readable reply: {error}"}


def _replies(backend: Backend, command: Command, skip: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    after: str | None = None
    while True:
        page = backend.query(f"reply#{command.id}", after=after, limit=_PAGE)
        found += [(item.key.sort, _read(item)) for item in page.items if item.key.sort not in skip]
        after = page.next
        if after is None:
            return found
