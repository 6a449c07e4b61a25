"""One call of a key is queued or runs at a time: claimed before it is sent, freed when it ends.

A claim says whose it is, and until when it counts. It is short while its message is being sent,
so that a publisher that dies in between keeps others out for a minute, and long once it is sent.
Whoever finds a claim looks whether its owner has ended, so a claim that was not freed is no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op
from cloudq.errors import BackendError, ConfigurationError, PublishError, ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend

log = logging.getLogger("cloudq.throttling")

# How long a claim lasts whose message may not have been sent.
_SENDING = 60.0
_TRIES = 5

Send = Callable[[Sequence[TaskMessage]], None]


def unique_key(message: TaskMessage) -> Key | None:
    """Where the claim of a call lies; None for a call without one."""
    if message.unique_key is None:
        return None
    return Key(f"unique#{message.task}#{message.unique_key}")


class Uniques:
    """Sends calls unless an equal one is queued or runs. `lasts` gives a claim's length in s."""

    def __init__(self, backend: Backend | None, lasts: Callable[[TaskMessage], float]) -> None:
        self._backend = backend
        self._lasts = lasts

    def send(self, messages: Sequence[TaskMessage], send: Send) -> list[str]:
        """Send what is new; for each message its id, or that of the call it is equal to.

        Two requests for each that has a key. Raises `BackendError`, and what `send` raises.
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
                ids.append(message.id if key is None else _claim(backend, key, message.id))
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
        """The messages are sent: from now on their claims count for as long as they may take."""
        for message in messages:
            until = max(backend.clock(), message.not_before or 0.0) + self._lasts(message)
            try:
                _write(backend, message, until)
            except BackendError as error:  # it is sent, and says so when it ends
                log.warning("an equal call of %s may be sent as well: %s", message.task, error)

    @staticmethod
    def _give_up(backend: Backend, messages: Sequence[TaskMessage]) -> None:
        for message in messages:
            try:
                free(backend, message)
            except ServiceError as error:  # it lasts for a minute only
                log.warning("the claim of %s stays for a while: %s", message.task, error)


def free(backend: Backend, message: TaskMessage) -> None:
    """End the claim of a call, if it still has it. Raises `BackendError`."""
    key = unique_key(message)
    if key is not None:
        free_key(backend, key, message.id)


def free_key(backend: Backend, key: Key, owner: str) -> None:
    """End a claim, if it is still the owner's: one request. Raises `BackendError`."""
    change = Change(
        remove=frozenset({"owner", "until"}),
        expires=backend.clock() + _SENDING,
        when=(Check(field="owner", op=Op.EQ, value=owner),),
    )
    try:
        backend.update(key, change)
    except ConditionFailed:
        log.debug("the claim %s has passed on", key.partition)


def _claim(backend: Backend, key: Key, id: str) -> str:
    """Claim a key for a call that is about to be sent; whose it is."""
    when = (Check(field="until", op=Op.LT, value=backend.clock(), or_absent=True),)
    owner = id
    for _ in range(_TRIES):
        until = backend.clock() + _SENDING
        try:
            backend.update(key, _claimed(id, until, when))
        except ConditionFailed as error:
            owner = _owner(error.current)
            if owner == id:
                return id
            if owner is None:
                when = (Check(field="owner", op=Op.ABSENT),)
                continue
            record = backend.record(owner)
            if record is None or not record.terminal:
                return owner
            when = (Check(field="owner", op=Op.EQ, value=owner),)
        else:
            return id
    return owner or id


def _write(backend: Backend, message: TaskMessage, until: float) -> None:
    key = unique_key(message)
    assert key is not None  # only those with a key are claimed
    # By now it may have ended, and freed the claim; or it was slow, and the claim is another's.
    mine = (Check(field="owner", op=Op.EQ, value=message.id),)
    try:
        backend.update(key, _claimed(message.id, until, mine))
    except ConditionFailed:
        log.debug("the claim %s has ended already", key.partition)


def _claimed(id: str, until: float, when: tuple[Check, ...]) -> Change:
    return Change(set={"owner": id, "until": until}, expires=until + _SENDING, when=when)


def _owner(item: Item | None) -> str | None:
    found = item.fields.get("owner") if item else None
    return str(found) if found is not None else None
