"""Unique calls: a call claims its key before it is sent, and frees it when it ends.

A claim names its owner and the time when it ends. It lasts a minute while the message is being
sent, in case the publisher dies, and is extended once it is sent. A call that finds a claim checks
if the owner has ended or will never run, since it was revoked or has expired in the queue; so a
claim that was not freed does no harm. A call that starts marks its claim: from then on neither
counts, and where another call has the claim already, it does not start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.errors import BackendError, ConfigurationError, PublishError, ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.call_marks import is_before

log = logging.getLogger("cloudq.throttling")

# The seconds that a claim lasts before its message is known to be sent.
_SENDING = 60.0
_TRIES = 5

_FIELDS = frozenset({"owner", "until", "expires_at", "started", "instead_of", "call"})

Send = Callable[[Sequence[TaskMessage]], None]


def unique_key(message: TaskMessage) -> Key | None:
    """Return the store's key of a call's claim; None for a call without one."""
    if message.unique_key is None:
        return None
    return Key(f"unique#{message.task}#{message.unique_key}")


class Uniques:
    """Sends calls unless an equal one is queued or runs. `lasts` gives a claim's seconds."""

    def __init__(self, backend: Backend | None, lasts: Callable[[TaskMessage], float]) -> None:
        self._backend = backend
        self._lasts = lasts

    def send(self, messages: Sequence[TaskMessage], send: Send) -> list[str]:
        """Send the new calls; returns for each message its id, or the id of the equal call.

        Two requests for each message with a key. Raises `BackendError`, and what `send` raises.
        """
        backend = self._backend
        if backend is None:
            raise ConfigurationError(
                "unique calls are claimed in the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        ids: list[str] = []
        claimed: list[TaskMessage] = []
        try:
            for message in messages:
                key = unique_key(message)
                ids.append(message.id if key is None else _claim(backend, key, message))
                if key is not None and ids[-1] == message.id:
                    claimed.append(message)
            send([m for id, m in zip(ids, messages, strict=True) if id == m.id])
        except PublishError as partly:
            unsent = {rejected.id for rejected in partly.rejected}
            self._give_up(backend, [m for m in claimed if m.id in unsent])
            self._confirm(backend, [m for m in claimed if m.id not in unsent])
            raise
        except BaseException:
            self._give_up(backend, claimed)
            raise
        self._confirm(backend, claimed)
        return ids

    def _confirm(self, backend: Backend, messages: Sequence[TaskMessage]) -> None:
        """Extend the claims of sent messages to the time that their calls may take."""
        for message in messages:
            until = max(backend.clock(), message.not_before or 0.0) + self._lasts(message)
            try:
                _write(backend, message, until)
            except BackendError as error:  # the message is sent, and its end is recorded
                log.warning("an equal call of %s may be sent as well: %s", message.task, error)

    @staticmethod
    def _give_up(backend: Backend, messages: Sequence[TaskMessage]) -> None:
        for message in messages:
            try:
                free(backend, message)
            except ServiceError as error:  # it ends by itself after a minute
                log.warning("the claim of %s stays for a while: %s", message.task, error)


def free(backend: Backend, message: TaskMessage) -> None:
    """Free the claim of a call, if it still has it. Raises `BackendError`."""
    key = unique_key(message)
    if key is not None:
        free_key(backend, key, message.id)


def free_key(backend: Backend, key: Key, owner: str) -> None:
    """Free a claim, if it is still the owner's, in one request. Raises `BackendError`."""
    change = Change(
        remove=_FIELDS,
        expires=backend.clock() + _SENDING,
        when=_owned_by(owner),
    )
    try:
        backend.update(key, change)
    except ConditionFailed:
        log.debug("the claim %s has passed on", key.partition)


def begin(backend: Backend, message: TaskMessage) -> str:
    """Mark the claim of a call that is about to run, in one request; return "" if it may run.

    Else another call has taken its claim over, since this one was "revoked" or "expired" then.
    """
    key = unique_key(message)
    assert key is not None  # others are not asked for
    change = Change(set={"started": True}, keep_expires=True, when=_owned_by(message.id))
    try:
        backend.update(key, change)
    except ConditionFailed as error:
        if _owner(error.current) in (None, message.id):
            return ""
        record = backend.record(message.id)
        if record is not None and record.revoked:
            return "revoked"
        late = message.expires is not None and message.expires <= backend.clock()
        instead = error.current.fields.get("instead_of") if error.current else None
        return "expired" if late or instead == message.id else ""
    except BackendError as error:  # it may run: at worst an equal call does so beside it
        log.warning("the claim of task %s is not marked: %s", message.id, error)
    return ""


def pause(backend: Backend, message: TaskMessage) -> None:
    """Take the mark from the claim of a call that goes back to its queue."""
    key = unique_key(message)
    assert key is not None  # others are not asked for
    unmarked = frozenset({"started"})
    change = Change(remove=unmarked, keep_expires=True, when=_owned_by(message.id))
    try:
        backend.update(key, change)
    except ConditionFailed:
        log.debug("the claim %s has passed on", key.partition)
    except BackendError as error:  # its next start, or its end, sets it right
        log.warning("the claim of task %s stays marked: %s", message.id, error)


def _claim(backend: Backend, key: Key, message: TaskMessage) -> str:
    """Claim a key for a call that is about to be sent; returns the id of its owner."""
    when = (Check(field="until", op=Op.LT, value=backend.clock(), or_absent=True),)
    owner: str | None = None
    for _ in range(_TRIES):
        change = _claimed(message, backend.clock() + _SENDING, when)
        if owner is not None:
            change = replace(change, set={**change.set, "instead_of": owner})
        try:
            backend.update(key, replace(change, remove=_FIELDS - change.set.keys()))
        except ConditionFailed as error:
            owner = _owner(error.current)
            if owner == message.id:
                return message.id
            if owner is None:
                when = (Check(field="owner", op=Op.ABSENT),)
                continue
            started = error.current is not None and bool(error.current.fields.get("started"))
            if not _is_void(backend, owner, error.current, started=started):
                return owner
            unmarked = Check(field="started", op=Op.ABSENT)
            when = _owned_by(owner) if started else (*_owned_by(owner), unmarked)
        else:
            return message.id
    return owner or message.id


def _is_void(backend: Backend, owner: str, claim: Item | None, *, started: bool) -> bool:
    """Say if a claim's call has ended, or will never run."""
    record = backend.record(owner)
    call = claim.fields.get("call") if claim else None
    if call is not None and record is not None and is_before(record, str(call)):
        record = None  # the end of an earlier call of its id
    if record is not None and record.terminal:
        return True
    if started:
        return False
    expires = claim.fields.get("expires_at") if claim else None
    late = isinstance(expires, int | float) and expires <= backend.clock()
    return late or (record is not None and record.revoked)


def _write(backend: Backend, message: TaskMessage, until: float) -> None:
    key = unique_key(message)
    assert key is not None  # only messages with a key are claimed
    try:
        # The call may have ended by now and freed the claim, or been so slow that another took it.
        backend.update(key, _claimed(message, until, _owned_by(message.id)))
    except ConditionFailed:
        log.debug("the claim %s has ended already", key.partition)


def _claimed(message: TaskMessage, until: float, when: tuple[Check, ...]) -> Change:
    fields: dict[str, Value] = {"owner": message.id, "until": until}
    if message.call is not None:
        fields["call"] = message.call
    if message.expires is not None:
        fields["expires_at"] = message.expires
    return Change(set=fields, expires=until + _SENDING, when=when)


def _owned_by(id: str) -> tuple[Check, ...]:
    return (Check(field="owner", op=Op.EQ, value=id),)


def _owner(item: Item | None) -> str | None:
    found = item.fields.get("owner") if item else None
    return str(found) if found is not None else None
