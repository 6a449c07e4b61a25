"""Calls for a far time: each waits as one entry of the cloud's scheduler, not in hops of its queue.

The entry fires a little early, and the queue's own delay does the rest: schedulers keep their times
to the minute, queues to the second. It is gone when it has fired. Only calls go there: what a
worker sends again, a retry or a hop, waits in its queue, so that workers need no right to make
entries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from cloudq.driver import Failure, Limits, OneTimeEntry, OneTimeScheduler, Outgoing
from cloudq.errors import CloudQError, ConfigurationError, ServiceError
from cloudq.messages.message import TaskMessage

_GROUP = re.compile(r"[^0-9A-Za-z_.-]+")
# What the tags of AWS may be made of.
_OWNER = re.compile(r"[^\w .:/=+@-]")
_PLAIN = re.compile(r"[0-9A-Za-z_-]{1,40}")
_HANDLE = re.compile(r"once:([0-9A-Za-z_-]+\.([0-9]+))")


def group_of(app: str) -> str:
    """The group of the schedules of an app."""
    return _GROUP.sub("-", f"cloudq-{app}")[:64]


def one_time_group_of(app: str) -> str:
    """The group of an app's far calls: one of their own, which no plan and no stack deletes."""
    return f"{group_of(app)[:60]}.eta"


def owner_of(app: str) -> str:
    """The app's name as a group bears it."""
    return _OWNER.sub("-", app)[:256]


def fires_at(handle: str) -> float | None:
    """When the entry of a handle fires, in epoch seconds; None of a handle that is no entry's."""
    read = _HANDLE.fullmatch(handle)
    return None if read is None else float(read[2])


class OneTimeSchedules:
    """Makes and takes back the entries of one app. Safe to use from many threads.

    `open` gives the scheduler's driver, at the first use. `after`: calls that are due later than
    so many seconds from now wait there, if their queue cannot delay them itself.
    """

    def __init__(self, open: Callable[[], object], *, url: str, app: str, after: float) -> None:
        self._open = open
        self._url = url.partition("?")[0]
        self._group = one_time_group_of(app)
        self._app = app
        self._after = after
        self._lock = Lock()
        self._opened: OneTimeScheduler | None = None

    def takes(self, message: TaskMessage, body: bytes, limits: Limits, now: float) -> bool:
        """Whether this message waits in the scheduler. Raises `ConfigurationError`.

        One whose queue delays nothing at all is parked, which costs less.
        """
        delay = (message.not_before or 0.0) - now
        if delay <= self._after or not 0 < limits.max_delay < delay:
            return False
        return self._driver.takes(body)

    def send(
        self, queue: str, messages: Sequence[Outgoing], due: Mapping[str, float]
    ) -> list[str | Failure]:
        """Make an entry of each message, a request each; its handle, or why it was refused.

        `due` has their times in epoch seconds, by their ids. Raises `ConfigurationError`.
        """
        return [
            self._made(queue, place, message, due[message.id])
            for place, message in enumerate(messages)
        ]

    def _made(self, queue: str, place: int, message: Outgoing, due: float) -> str | Failure:
        driver = self._driver
        fires = int(due - driver.early)
        # One time of one message is one entry: a publish that is repeated makes no second.
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
            reason = f"no entry in {self._url} could be made for it: {error}"
            return Failure(index=place, code=driver.error_code(error), reason=reason)
        return f"once:{name}"

    def take_back(self, handle: str) -> bool:
        """Delete the entry of a handle; False where it has fired. Raises `ServiceError`."""
        read = _HANDLE.fullmatch(handle)
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
    """An id as every service takes it in a name."""
    return id if _PLAIN.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:40]
