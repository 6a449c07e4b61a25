"""Actions that take long: each runs in a thread of its own, and can be watched and stopped."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudq.dashboard.actions.plan import Done, Told
from cloudq.driver.log import Log
from cloudq.errors import CloudQError
from cloudq.text import describe

log = Log("cloudq.dashboard")

_MOST_RUNNING, _MOST_KEPT = 8, 200


class Stopped(Exception):
    """Raised inside of a job that somebody has stopped."""


@dataclass(slots=True, kw_only=True)
class Job:
    """An action under way or over: `handled` of `number` so far. Times are epoch seconds."""

    id: str
    question: str
    who: str
    number: int | None
    back: str
    began: float
    handled: int = 0
    ended: float | None = None
    done: Done | None = None
    error: str | None = None
    stopped_by: str | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def told(self, handled: int) -> None:
        """Note how far it is. Raises `Stopped` where it is to stop."""
        self.handled = handled
        if self.stopped_by is not None:
            raise Stopped


class TooMany(CloudQError):
    """Raised where so many jobs run that no other may begin."""


class Jobs:
    """The jobs of one dashboard. Safe to use from many threads."""

    def __init__(self, stopped: Callable[[Job], None]) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._stopped = stopped

    def start(self, job: Job, run: Callable[[Told], Done]) -> Job:
        """Run an action in a thread of its own. Raises `TooMany`."""
        with self._lock:
            running = sum(one.ended is None for one in self._jobs.values())
            if running >= _MOST_RUNNING:
                raise TooMany(f"{running} actions run already: wait until one has ended")
            for id in [id for id, one in self._jobs.items() if one.ended is not None][:-_MOST_KEPT]:
                del self._jobs[id]
            self._jobs[job.id] = job
        name = f"cloudq-dashboard-{job.id}"
        threading.Thread(target=self._run, args=(job, run), name=name, daemon=True).start()
        return job

    def find(self, id: str) -> Job | None:
        """Return a job by its id."""
        with self._lock:
            return self._jobs.get(id)

    def _run(self, job: Job, run: Callable[[Told], Done]) -> None:
        try:
            job.done = run(job.told)
        except Stopped:
            job.error = f"Stopped after {job.handled:,}: what was handled before stays so"
            self._stopped(job)
        except CloudQError as error:
            job.error = describe(error)
        except Exception as error:  # classes of the user's are made from arguments in here
            log.exception("the action %s failed", job.question)
            job.error = f"it failed: {describe(error)}"
            self._stopped(job)
        finally:
            job.ended = time.time()
            job.over.set()


def new_job(question: str, who: str, number: int | None, back: str) -> Job:
    """Make a job that has not begun."""
    id = secrets.token_urlsafe(12)
    return Job(id=id, question=question, who=who, number=number, back=back, began=time.time())
