"""Unique calls: a call claims its key before it is sent, and frees it when it ends.

A claim names its owner and the time when it ends. It lasts a minute while the message is being
sent, in case the publisher dies, and is extended once it is sent. A call that finds a claim checks
if the owner has ended or will never run, since it was revoked, has expired in the queue or was
purged with it; so a claim that was not freed does no harm. A call that starts marks its claim: from
then on none of these counts, and where another call has the claim already, it does not start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.driver.immutable import immutable
from cloudq.driver.log import Log
from cloudq.errors import BackendError, ConfigurationError, PublishError, ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.call_marks import is_before

log = Log("cloudq.throttling")

# The seconds that a claim lasts before its message is known to be sent.
_SENDING = 60.0
_TRIES = 5

# A call may wait in its queue for as long as a delay and a service allow.
_PURGED_FOR = 31 * 86_400.0

_FIELDS = frozenset(
    {
        "owner",
        "until",
        "expires_at",
        "started",
        "instead_of",
        "call",
        "at",
        "queue",
        "ignore_result",
    }
)


@immutable
class Sent:
    """The call that stands for one: itself, or the equal call that is queued or runs.

    `call` is its mark, and `ignore_result` its own option.
    """

    id: str
    call: str | None = None
    ignore_result: bool | None = None

    @classmethod
    def of(cls, message: TaskMessage) -> Sent:
        return cls(id=message.id, call=message.call, ignore_result=message.ignore_result)

    @classmethod
    def by(cls, claim: Item | None, owner: str) -> Sent:
        fields = _fields(claim)
        call, ignores = fields.get("call"), fields.get("ignore_result")
        return cls(
            id=owner,
            call=None if call is None else str(call),
            ignore_result=None if ignores is None else bool(ignores),
        )


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

    def send(self, messages: Sequence[TaskMessage], send: Send) -> list[Sent]:
        """Send the new calls; returns for each message its call, or the equal call.

        Two requests for each message with a key. Raises `BackendError`, and what `send` raises.
        """
        backend = self._backend
        if backend is None:
            raise ConfigurationError(
                "unique calls are claimed in the result backend, and the app has none: "
                "set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        calls: list[Sent] = []
        claimed: list[TaskMessage] = []
        try:
            for message in messages:
                key = unique_key(message)
                calls.append(Sent.of(message) if key is None else _claim(backend, key, message))
                if key is not None and calls[-1].id == message.id:
                    claimed.append(message)
            send([m for call, m in zip(calls, messages, strict=True) if call.id == m.id])
        except PublishError as partly:
            unsent = {rejected.id for rejected in partly.rejected}
            self._give_up(backend, [m for m in claimed if m.id in unsent])
            self._confirm(backend, [m for m in claimed if m.id not in unsent])
            raise
        except BaseException:
            self._give_up(backend, claimed)
            raise
        self._confirm(backend, claimed)
        return calls

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


def note_purged(backend: Backend, queue: str, at: float) -> None:
    """Note that a queue was purged at a time: the claims of calls that waited there are none."""
    expires = backend.clock() + _PURGED_FOR
    try:
        backend.put([Item(key=_purged_key(queue), fields={"at": at}, expires=expires)])
    except ServiceError as error:  # a claim ends by itself, after `unique_for`
        log.warning("the unique calls of %s that were purged keep their claims: %s", queue, error)


def _purged_key(queue: str) -> Key:
    return Key(f"purged#{queue}")


def _is_purged(backend: Backend, claim: Item | None) -> bool:
    """Tell whether a claim's queue was purged since the claim was made."""
    queue, at = _fields(claim).get("queue"), _fields(claim).get("at")
    if not isinstance(queue, str) or not isinstance(at, int | float):
        return False  # the claim of an older release
    found = backend.get([_purged_key(queue)]).get(_purged_key(queue))
    purged = found.fields.get("at") if found else None
    return isinstance(purged, int | float) and at < purged


def _claim(backend: Backend, key: Key, message: TaskMessage) -> Sent:
    """Claim a key for a call that is about to be sent; returns the call that has it."""
    when = (Check(field="until", op=Op.LT, value=backend.clock(), or_absent=True),)
    owner: str | None = None
    claim: Item | None = None
    for _ in range(_TRIES):
        change = _claimed(message, backend.clock() + _SENDING, when)
        change = replace(change, set={**change.set, "at": backend.clock()})
        if owner is not None:
            change = replace(change, set={**change.set, "instead_of": owner})
        try:
            backend.update(key, replace(change, remove=_FIELDS - change.set.keys()))
        except ConditionFailed as error:
            claim = error.current
            owner = _owner(claim)
            if owner == message.id:
                return Sent.of(message)
            if owner is None:
                when = (Check(field="owner", op=Op.ABSENT),)
                continue
            started = bool(_fields(claim).get("started"))
            if not _is_void(backend, owner, claim, started=started):
                return Sent.by(claim, owner)
            unmarked = Check(field="started", op=Op.ABSENT)
            when = _owned_by(owner) if started else (*_owned_by(owner), unmarked)
        else:
            return Sent.of(message)
    return Sent.of(message) if owner is None else Sent.by(claim, owner)


def _is_void(backend: Backend, owner: str, claim: Item | None, *, started: bool) -> bool:
    """Say if a claim's call has ended, or will never run."""
    record = backend.record(owner)
    call = _fields(claim).get("call")
    if call is not None and record is not None and is_before(record, str(call)):
        record = None  # the end of an earlier call of its id
    if record is not None and record.terminal:
        return True
    if started:
        return False
    expires = _fields(claim).get("expires_at")
    late = isinstance(expires, int | float) and expires <= backend.clock()
    revoked = record is not None and record.revoked
    return late or revoked or _is_purged(backend, claim)


def _write(backend: Backend, message: TaskMessage, until: float) -> None:
    key = unique_key(message)
    assert key is not None  # only messages with a key are claimed
    try:
        # The call may have ended by now and freed the claim, or been so slow that another took it.
        backend.update(key, _claimed(message, until, _owned_by(message.id)))
    except ConditionFailed:
        log.debug("the claim %s has ended already", key.partition)


def _claimed(message: TaskMessage, until: float, when: tuple[Check, ...]) -> Change:
    fields: dict[str, Value] = {"owner": message.id, "until": until, "queue": message.queue}
    if message.ignore_result is not None:
        fields["ignore_result"] = message.ignore_result
    if message.call is not None:
        fields["call"] = message.call
    if message.expires is not None:
        fields["expires_at"] = message.expires
    return Change(set=fields, expires=until + _SENDING, when=when)


def _owned_by(id: str) -> tuple[Check, ...]:
    return (Check(field="owner", op=Op.EQ, value=id),)


def _fields(item: Item | None) -> Mapping[str, Value]:
    return item.fields if item is not None else {}


def _owner(item: Item | None) -> str | None:
    found = _fields(item).get("owner")
    return str(found) if found is not None else None
