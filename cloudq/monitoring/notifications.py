"""Reports failed tasks: a middleware, and mail over SMTP. SNS and SES are in `cloudq_aws`."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Literal

from cloudq.amounts import seconds
from cloudq.driver.forks import renew_after_fork
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError, Ignore, Reject, Replaced
from cloudq.tasks.request import Call, Context, Middleware
from cloudq.tasks.secrecy import hiding, request_hiding
from cloudq.text import HIDING, block, hidden, masked, one_line, text_of

log = Log("cloudq.notifications")

_LONGEST_SUBJECT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The report of a task's final failure. `others` counts similar ones that were held back.

    Its texts are without the secrets of the call; the error itself has what its text says.
    """

    task: str
    id: str
    error: BaseException = field(repr=False)
    queue: str
    hostname: str
    retries: int
    others: int = 0
    hide: Callable[[str], str] | None = field(default=None, compare=False, repr=False)

    @property
    def subject(self) -> str:
        """One line of at most 100 ASCII characters, the limit of SNS."""
        with hiding(self.hide):
            said = hidden(text_of(self.error))
        line = masked(f"[cloudq] {self.task} failed: {type(self.error).__name__}: {said}")
        plain = " ".join(line.encode("ascii", "replace").decode().split())
        plain = "".join(sign for sign in plain if sign.isprintable())
        return plain[:_LONGEST_SUBJECT]

    @property
    def text(self) -> str:
        """The full report with the traceback, without the task's arguments."""
        lines = [
            one_line(f"Task {self.task} with id {self.id} has failed."),
            one_line(f"queue {self.queue}, worker {self.hostname}, after {self.retries} retries"),
        ]
        if self.others:
            lines.append(f"{self.others} similar failures before it were not reported.")
        with hiding(self.hide):
            trace = hidden("".join(traceback.format_exception(self.error)))
        return "\n".join([*lines, "", block(masked(trace))])


Notifier = Callable[[Failure], None]
"""Sends a report somewhere; it may be slow and may raise."""


def notify_failures(
    notifier: Notifier,
    *,
    tasks: Collection[str] | None = None,
    every: float = 60.0,
) -> Middleware:
    """A middleware that reports calls that fail after their last retry.

    `tasks` are the task names to report; left out, all. Each process reports at most one failure
    of a task and exception class in `every` seconds; the next report counts those held back. The
    notifier runs in the thread of the task, so a slow one keeps a slot occupied. An error that it
    raises is logged, and the task's outcome stands. A task whose process is killed, as at its hard
    time limit, is not reported here: use the signal `task_failure`, sent in the supervisor.
    """
    throttle = _Throttle(seconds(every, "every", ConfigurationError))

    def around(call: Call) -> Call:
        def run(context: Context) -> object:
            try:
                return call(context)
            except (Ignore, Reject, Replaced):
                raise
            except BaseException as error:
                named = tasks is None or context.request.task in tasks
                if named and not context.request.asked and not context.retried(error):
                    _tell(notifier, throttle, context, error)
                raise

        return run

    return around


def _tell(notifier: Notifier, throttle: _Throttle, context: Context, error: BaseException) -> None:
    request = context.request
    others = throttle.passes((request.task, type(error).__qualname__))
    if others is None:
        return
    failure = Failure(
        task=request.task,
        id=request.id,
        error=error,
        queue=request.queue,
        hostname=request.hostname or socket.gethostname(),
        retries=request.retries,
        others=others,
        hide=HIDING.get() or request_hiding(request),
    )
    try:
        notifier(failure)
    except Exception:  # an error of the notifier does not change the task's outcome
        log.exception("the notifier failed to report the failure of task %s", request.id)


class _Throttle:
    """Lets one failure of each kind pass per interval, and counts the others."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._renew()
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}
        renew_after_fork(self, _Throttle._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def passes(self, kind: tuple[str, str]) -> int | None:
        """The number held back before this one; None if this one is held back too."""
        now = time.monotonic()
        with self._lock:
            known = self._kinds.get(kind)
            if known is not None and now < known[0]:
                self._kinds[kind] = (known[0], known[1] + 1)
                return None
            self._kinds[kind] = (now + self._every, 0)
            return known[1] if known is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SMTP:
    """A notifier that sends a mail. Raises `ConfigurationError` for settings that cannot work.

    `security` secures the connection by STARTTLS, by TLS from the start ("tls"), or not at all
    ("none", for a mail server on this machine). `timeout` is in seconds.
    """

    sender: str
    to: Collection[str]
    host: str = "localhost"
    port: int = 587
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    security: Literal["starttls", "tls", "none"] = "starttls"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.to, str) or not self.to:
            raise ConfigurationError(f'SMTP: to is {self.to!r}: give addresses, as ["a@b.example"]')
        if self.user is not None and self.security == "none":
            raise ConfigurationError("SMTP: a password must not be sent in the clear: set security")

    def __call__(self, failure: Failure) -> None:
        mail = EmailMessage()
        mail["Subject"] = failure.subject
        mail["From"] = self.sender
        mail["To"] = ", ".join(self.to)
        mail.set_content(failure.text)
        with self._connected() as server:
            if self.user is not None:
                server.login(self.user, self.password or "")
            server.send_message(mail)

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=context)
        server = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        if self.security == "starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server
