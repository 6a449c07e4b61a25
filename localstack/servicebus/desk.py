"""Answers requests: `$cbs` checks tokens, `$management` handles all other requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from localstack.servicebus import browsing, codec, errors, message
from localstack.servicebus.errors import Refusal
from localstack.servicebus.message import Request
from localstack.servicebus.namespace import Namespace, Node
from localstack.servicebus.values import DecodeError

_DEFAULT_LISTING = 253_402_300_800_000  # .NET's last moment: list whatever has messages


@dataclass(frozen=True, slots=True)
class TokenDesk:
    """Checks the tokens that authorize a connection."""

    namespace: Namespace
    admit: Callable[[], None]

    def answer(self, request: Request) -> bytes:
        """Reply with 202, or with 401 and the fault of the token."""
        self.namespace.stats["tokens"] += 1
        problem = self.namespace.keys.problem(str(request.value or ""))
        if self.namespace.faults.denies():
            problem = "Unauthorized: The token was turned down by a fault that was asked for."
        if problem is None:
            self.admit()
        return message.reply(
            request,
            {
                "status-code": codec.integer(401 if problem else 202),
                "status-description": codec.string(problem or "Accepted"),
            },
            codec.NULL,
        )


Answer = bytes | None
"""The content of a reply; None stands for no content (204)."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers management requests for one entity."""

    namespace: Namespace
    node: Node

    def answer(self, request: Request) -> bytes:
        """Reply with the result of a request, or with the reason for refusing it."""
        try:
            value = self._do(request)
        except Refusal as refusal:
            return refused(request, refusal)
        except (KeyError, TypeError, ValueError, AttributeError, DecodeError) as error:
            problem = f"The request is malformed: {type(error).__name__}: {error}"
            return refused(request, Refusal(errors.ARGUMENT_ERROR, problem))
        found = value is not None
        return message.reply(
            request,
            {
                "statusCode": codec.integer(200 if found else 204),
                "statusDescription": codec.string("OK" if found else "No Content"),
            },
            value if value is not None else codec.mapping({}),
        )

    def _do(self, request: Request) -> Answer:
        operation = str(request.application.get("operation", ""))
        work = {
            "renew-lock": self._renew,
            "update-disposition": self._settle,
            "peek-message": self._peek,
            "receive-by-sequence-number": self._receive,
            "schedule-message": self._schedule,
            "cancel-scheduled-message": self._cancel,
            "renew-session-lock": self._renew_session,
            "get-session-state": self._get_state,
            "set-session-state": self._set_state,
            "get-message-sessions": self._sessions,
        }.get(operation.removeprefix("com.microsoft:"))
        if work is None:
            raise Refusal(errors.NOT_IMPLEMENTED, f"{operation!r} is not implemented here.")
        return work(request.value)

    def _renew(self, body: Mapping[str, Any]) -> Answer:
        ends = [self.node.store.renew(token) for token in _tokens(body)]
        return _named(expirations=codec.array(map(_moment, ends), 0x83))

    def _settle(self, body: Mapping[str, Any]) -> Answer:
        store = self.node.store
        status = body["disposition-status"]
        changes: dict[str, Any] = body.get("properties-to-modify") or {}
        for token in _tokens(body):
            if status == "completed":
                store.complete(token)
            elif status == "abandoned":
                store.abandon(token, changes)
            elif status in ("defered", "deferred"):
                store.defer(token, changes)
            elif status == "suspended":
                reason, why = body.get("deadletter-reason"), body.get("deadletter-description")
                store.dead_letter(token, reason, why, changes)
            else:
                raise ValueError(f"disposition-status {status!r}")
        return _named()

    def _peek(self, body: Mapping[str, Any]) -> Answer:
        session = body.get("session-id")
        first, count = body["from-sequence-number"], body["message-count"]
        encoded: list[bytes] = []
        room = self.node.queue.most_bytes  # Azure's replies are no larger than a message
        for peeked in browsing.peek(self.node.store, first, count, session):
            data = peeked.encode(peeked=True)
            room -= len(data)
            if encoded and room < 0:
                break
            encoded.append(_named(message=codec.binary(data)))
        return _named(messages=codec.sequence(encoded)) if encoded else None

    def _receive(self, body: Mapping[str, Any]) -> Answer:
        self.node.queue.check_receive()
        takes = body.get("receiver-settle-mode", 1) == 0
        chosen = self.node.store.take_deferred(
            body["sequence-numbers"], takes=takes, session=body.get("session-id")
        )
        entries: list[bytes] = []
        for taken in chosen:
            parts = {"message": codec.binary(taken.encode(locked=not takes))}
            if taken.token:
                parts["lock-token"] = codec.uuid(taken.token)
            entries.append(_named(**parts))
        return _named(messages=codec.sequence(entries))

    def _schedule(self, body: Mapping[str, Any]) -> Answer:
        queue = self.node.queue
        messages = [message.read(entry["message"]) for entry in body["messages"]]
        size = sum(each.size for each in messages)
        if size > queue.most_bytes:
            raise Refusal(errors.TOO_LARGE, f"{size} bytes exceed the limit of {queue.most_bytes}.")
        self.namespace.stats["messages"] += len(messages)
        return _named(**{"sequence-numbers": codec.longs(queue.send(messages))})

    def _cancel(self, body: Mapping[str, Any]) -> Answer:
        self.node.queue.cancel(body["sequence-numbers"])
        return _named()

    def _renew_session(self, body: Mapping[str, Any]) -> Answer:
        return _named(expiration=_moment(self.node.store.renew_session(body["session-id"])))

    def _get_state(self, body: Mapping[str, Any]) -> Answer:
        state = self.node.store.holding(body["session-id"]).state
        return _named(**{"session-state": codec.NULL if state is None else codec.binary(state)})

    def _set_state(self, body: Mapping[str, Any]) -> Answer:
        session = self.node.store.holding(body["session-id"])
        session.state = body.get("session-state")
        session.updated = time.time()
        return _named()

    def _sessions(self, body: Mapping[str, Any]) -> Answer:
        since = int(body["last-updated-time"])
        everyone = since >= _DEFAULT_LISTING
        names = browsing.named_sessions(self.node.store, None if everyone else since / 1000)
        page = names[body["skip"] :][: body["top"]]
        if not page:
            return None
        listed = codec.sequence([codec.string(name) for name in page])
        return _named(**{"skip": codec.integer(len(page)), "sessions-ids": listed})


def refused(request: Request, refusal: Refusal) -> bytes:
    """Make the reply that refuses a request."""
    return message.reply(
        request,
        {
            "statusCode": codec.integer(refusal.status),
            "statusDescription": codec.string(refusal.description),
            "errorCondition": codec.symbol(refusal.condition),
        },
        codec.mapping({}),
    )


def _named(**values: bytes) -> bytes:
    return codec.mapping({codec.string(name): value for name, value in values.items()})


def _moment(seconds: float) -> bytes:
    return codec.timestamp(int(seconds * 1000))


def _tokens(body: Mapping[str, Any]) -> Iterable[UUID]:
    for token in body["lock-tokens"]:
        yield token if isinstance(token, UUID) else UUID(str(token))
