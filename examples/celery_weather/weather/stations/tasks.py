"""Tasks that read stations."""

import time

from celery import shared_task, states
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

from weather import ledger
from weather.bases import Counting, StationTask

logger = get_task_logger(__name__)

READINGS = {"vienna": [3, 5, 9], "graz": [2, 4, 6], "linz": [1, 1, 4]}


class StationBroken(Exception):
    """A station that says nonsense: it has a code."""

    def __init__(self, station, code):
        super().__init__(station, code)
        self.station = station
        self.code = code


@shared_task(bind=True, base=StationTask)
def read(self, station, downs=0):
    """Read a station, which is down for the first calls."""
    self.connect(station)
    if self.request.retries < downs:
        raise ConnectionError(f"{station} is down")
    return READINGS[station]


@shared_task(bind=True, base=StationTask, max_retries=2, default_retry_delay=0)
def probe(self, station, downs):
    """Probe a station, with retries of its own."""
    try:
        if self.request.retries < downs:
            raise TimeoutError(f"{station} is slow")
    except TimeoutError:
        try:
            raise self.retry(countdown=0.1 * 2**self.request.retries)
        except MaxRetriesExceededError:
            return "never"
    return f"{station} after {self.request.retries}"


@shared_task(bind=True, base=StationTask, max_retries=1)
def ask(self, station):
    """Ask a station that never answers: the error is the station's own."""
    try:
        raise TimeoutError(station)
    except TimeoutError as exc:
        raise self.retry(exc=exc, countdown=0)


@shared_task(bind=True, base=Counting)
def count(self):
    """Count the runs in this process."""
    return self.runs


@shared_task(throws=(StationBroken,))
def check(station):
    """Check a station: it is broken."""
    raise StationBroken(station, code=7)


@shared_task
def calibrate(seconds):
    """Calibrate for some seconds; annotations allow it one."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "stopped"
    return "calibrated"


@shared_task(bind=True)
def scan(self, total):
    """Scan, and say how far it is."""
    for done in range(total):
        self.update_state(state="PROGRESS", meta={"done": done, "total": total})
        time.sleep(0.05)
    return {"done": total, "total": total}


@shared_task(bind=True)
def hang(self, station):
    """Hold a line until it is revoked."""
    self.update_state(state="HOLDING", meta={"station": station})
    time.sleep(40)


@shared_task(bind=True)
def give_up(self, reason):
    """Set a state of its own, and leave it so."""
    self.update_state(state=states.FAILURE, meta=failure_meta(reason))
    raise Ignore()


def failure_meta(reason):
    """A failure as Celery stores it."""
    return {"exc_type": "ValueError", "exc_message": [reason], "exc_module": "builtins"}


@shared_task(bind=True)
def refuse(self):
    """Reject the message."""
    raise Reject("no such station", requeue=False)


@shared_task(name="silent-stations")
def silent():
    """Look for stations that say nothing."""
    return []


@shared_task
def on_broken(request, exc, traceback):
    """Written down when a whole run has failed."""
    ledger.write("errbacks", f"broken {'KeyError' in repr(exc)}")


@shared_task
def on_error(request, exc, traceback, topic="error"):
    """Written down when another task has failed."""
    ledger.write(
        "errbacks",
        f"{topic} {request.task} {list(request.args)} {type(exc).__name__} {exc.args} "
        f"{'Traceback' in str(traceback)} {request.id == request.get('id')}",
    )
