"""Refusals of the service, each with the AMQP error condition that clients react to."""

from __future__ import annotations

ARGUMENT_ERROR = "com.microsoft:argument-error"
ENTITY_DISABLED = "com.microsoft:entity-disabled"
MESSAGE_LOCK_LOST = "com.microsoft:message-lock-lost"
MESSAGE_NOT_FOUND = "com.microsoft:message-not-found"
SERVER_BUSY = "com.microsoft:server-busy"
SESSION_CANNOT_BE_LOCKED = "com.microsoft:session-cannot-be-locked"
SESSION_LOCK_LOST = "com.microsoft:session-lock-lost"
TIMEOUT = "com.microsoft:timeout"

DECODE_ERROR = "amqp:decode-error"
FRAMING_ERROR = "amqp:connection:framing-error"
INTERNAL_ERROR = "amqp:internal-error"
INVALID_FIELD = "amqp:invalid-field"
LIMIT_EXCEEDED = "amqp:resource-limit-exceeded"
NOT_ALLOWED = "amqp:not-allowed"
NOT_FOUND = "amqp:not-found"
NOT_IMPLEMENTED = "amqp:not-implemented"
TOO_LARGE = "amqp:link:message-size-exceeded"
UNAUTHORIZED = "amqp:unauthorized-access"

PASSING = (SERVER_BUSY, INTERNAL_ERROR)
"""Conditions under which a lock is as it was."""

_STATUS = {
    ENTITY_DISABLED: 403,
    INTERNAL_ERROR: 500,
    LIMIT_EXCEEDED: 403,
    MESSAGE_LOCK_LOST: 410,
    MESSAGE_NOT_FOUND: 404,
    NOT_FOUND: 404,
    NOT_IMPLEMENTED: 501,
    SERVER_BUSY: 503,
    SESSION_CANNOT_BE_LOCKED: 423,
    SESSION_LOCK_LOST: 410,
    TIMEOUT: 408,
    UNAUTHORIZED: 401,
}


class Refusal(Exception):
    """A refusal by the service: the condition is for programs, the description for people."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description

    @property
    def status(self) -> int:
        """The HTTP-like status of a management reply for this refusal."""
        return _STATUS.get(self.condition, 400)


def lock_lost() -> Refusal:
    """The lock has expired, or the message was settled before."""
    return Refusal(
        MESSAGE_LOCK_LOST,
        "The lock supplied is invalid. Either the lock expired, or the message has already been"
        " removed from the queue.",
    )


def session_lost(session: str) -> Refusal:
    """The session's lock has expired."""
    return Refusal(
        SESSION_LOCK_LOST,
        f"The session lock has expired on the session '{session}'. Accept it again.",
    )


def busy() -> Refusal:
    """The service is busy: the client should try again later."""
    return Refusal(SERVER_BUSY, "The server is busy. Wait 10 seconds and try again.")


def failed() -> Refusal:
    """The service failed by itself: the client may try again."""
    return Refusal(INTERNAL_ERROR, "The service was unable to process the request; please retry.")


def disabled(entity: str) -> Refusal:
    """The entity is disabled."""
    return Refusal(
        ENTITY_DISABLED, f"Messaging entity '{entity}' is currently disabled for this operation."
    )


def missing(entity: str) -> Refusal:
    """There is no such queue."""
    return Refusal(NOT_FOUND, f"The messaging entity '{entity}' could not be found.")
