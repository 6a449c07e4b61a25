"""Long-delayed calls, stored as one-time schedules instead of being re-sent in hops.

A schedule fires a little early, and the queue's own delay does the rest: schedulers keep time to
the minute, queues to the second. It is deleted when it has fired. Only calls are stored so: what a
worker sends again, a retry or a hop, waits in its queue, so that workers need no right to create
schedules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from cloudq.driver import Failure, Limits, Outgoing
from cloudq.driver.forks import leave_to_parent, renew_after_fork
from cloudq.errors import CloudQError, ConfigurationError, ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.text import describe, masked

if TYPE_CHECKING:
    from cloudq.driver import OneTimeScheduler

_GROUP = r"[^0-9A-Za-z_.-]+"
# Characters that a tag's value may not contain.
_OWNER = r"[^\w .:/=+@-]"
_PLAIN = r"[0-9A-Za-z_-]{1,40}"
_HANDLE = r"once:([0-9A-Za-z_-]+\.([0-9]+))"


def group_of(app: str) -> str:
    """Return the name of the group of an app's schedules."""
    return re.sub(_GROUP, "-", f"cloudq-{app}")[:64]


def one_time_group_of(app: str) -> str:
    """Return the name of the group of an app's delayed calls, which no plan or stack deletes."""
    return f"{group_of(app)[:60]}.eta"


def owner_of(app: str) -> str:
    """Return the app's name in the form in which a group's tag can hold it."""
    return re.sub(_OWNER, "-", app)[:256]


def fires_at(handle: str) -> float | None:
    """Return the epoch seconds at which a handle's entry fires; None for any other handle."""
    read = re.fullmatch(_HANDLE, handle)
    return None if read is None else float(read[2])


class OneTimeSchedules:
    """Creates and deletes the one-time schedules of one app. Safe to use from many threads.

    `open` gives the scheduler's driver, at the first use. Calls that are due in more than `after`
    seconds are stored there, if their queue cannot delay them so long.
    """

    def __init__(self, open: Callable[[], object], *, url: str, app: str, after: float) -> None:
        self._open = open
        self._url = url.partition("?")[0]
        self._group = one_time_group_of(app)
        self._app = app
        self._after = after
        self._lock = Lock()
        self._opened: OneTimeScheduler | None = None
        renew_after_fork(self, OneTimeSchedules._in_child)

    def _in_child(self) -> None:
        """Open a driver anew: the parent goes on with its own."""
        self._lock = Lock()
        leave_to_parent(self._opened)
        self._opened = None

    @property
    def opened(self) -> OneTimeScheduler | None:
        """The driver of this process if it is open."""
        return self._opened

    def takes(self, message: TaskMessage, body: bytes, limits: Limits, now: float) -> bool:
        """Tell whether this message goes to the scheduler. Raises `ConfigurationError`.

        Where the queue cannot delay at all, the result store keeps it, which costs less.
        """
        delay = (message.not_before or 0.0) - now
        if delay <= self._after or not 0 < limits.max_delay < delay:
            return False
        return self._driver.takes(body)

    def send(
        self, queue: str, messages: Sequence[Outgoing], due: Mapping[str, float]
    ) -> list[str | Failure]:
        """Create an entry for each message, a request each; return the handles or refusals.

        `due` has their times in epoch seconds, by their ids. Raises `ConfigurationError`.
        """
        return [
            self._made(queue, place, message, due[message.id])
            for place, message in enumerate(messages)
        ]

    def _made(self, queue: str, place: int, message: Outgoing, due: float) -> str | Failure:
        from cloudq.driver import OneTimeEntry

        driver = self._driver
        fires = int(due - driver.early)
        # The name tells the message and its time, so a repeated publish creates no second entry.
        name = f"{_word(message.id)}.{fires}"
        entry = OneTimeEntry(
            name=name,
            time=float(fires),
            queue=queue,
            body=message.body.decode(),
            group=message.group,
            owner=owner_of(self._app),
            description=f"cloudq {self._app} eta: {message.id}"[:512],
        )
        try:
            driver.once(self._group, entry)
        except CloudQError:
            raise
        except Exception as error:
            reason = masked(f"no entry in {self._url} could be made for it: {describe(error)}")
            return Failure(index=place, code=driver.error_code(error), reason=reason)
        return f"once:{name}"

    def take_back(self, handle: str) -> bool:
        """Delete the entry of a handle; False where it has fired. Raises `ServiceError`."""
        read = re.fullmatch(_HANDLE, handle)
        assert read is not None  # the caller has looked
        driver = self._driver
        try:
            return driver.forget(self._group, read[1])
        except CloudQError:
            raise
        except Exception as error:
            code = driver.error_code(error)
            raise ServiceError(f"cannot delete in {self._url}: {error}", code=code) from error

    @property
    def _driver(self) -> OneTimeScheduler:
        with self._lock:
            if self._opened is None:
                from cloudq.driver import OneTimeScheduler

                opened = self._open()
                if not isinstance(opened, OneTimeScheduler):
                    raise ConfigurationError(
                        f"{self._url} keeps no single calls: leave scheduler_eta out (on Pub/Sub, "
                        "tasks=LOCATION/QUEUE in the broker's URL keeps them in Cloud Tasks)"
                    )
                self._opened = opened
            return self._opened

    def close(self) -> None:
        """Close the driver; a later use opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None


def _word(id: str) -> str:
    """Return an id in a form that every service accepts in a name."""
    if re.fullmatch(_PLAIN, id):
        return id
    import hashlib  # loads OpenSSL, which few processes need

    return hashlib.sha256(id.encode()).hexdigest()[:40]
