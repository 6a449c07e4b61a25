"""Tasks that write reports."""

from celery import shared_task
from celery.signals import (
    before_task_publish,
    task_failure,
    task_postrun,
    task_prerun,
    task_revoked,
    worker_process_init,
    worker_ready,
)

from weather import ledger

_process = {}


@worker_process_init.connect
def start_process(**kwargs):
    """Each process of a worker has its own printer."""
    _process["printer"] = "ready"


@worker_ready.connect
def ready(sender, **kwargs):
    ledger.write("worker", f"ready {'@' in sender.hostname}")


@before_task_publish.connect(sender="weather.reports.tasks.letter")
def add_tenant(sender=None, headers=None, body=None, routing_key=None, **kwargs):
    ledger.write("published", f"{sender} {headers['task']} {body[0]} {body[1]} {routing_key}")


@task_prerun.connect
def before(sender=None, task_id=None, task=None, args=None, kwargs=None, **more):
    if task.name.startswith("weather.reports"):
        ledger.write("runs", f"before {task.name} {list(args)} {kwargs} {sender is task}")


@task_postrun.connect
def after(sender=None, task_id=None, task=None, retval=None, state=None, **more):
    if task.name.startswith("weather.reports"):
        told = type(retval).__name__ if state == "RETRY" else str(retval)[:40]
        ledger.write("runs", f"after {task.name} {state} {told}")


@task_failure.connect
def failed(sender=None, task_id=None, exception=None, traceback=None, einfo=None, **more):
    ledger.write(
        "failures",
        f"{sender.name} {type(exception).__name__} {traceback is not None} "
        f"{'Traceback' in einfo.traceback}",
    )


@task_revoked.connect
def revoked(sender=None, request=None, terminated=None, signum=None, expired=None, **more):
    ledger.write("revoked", f"{sender.name} {terminated} {expired} {request.args}")


@shared_task
def letter(period, printer=None):
    """Write a letter with the printer of this process."""
    return f"{period}: printer {_process.get('printer', 'none')}"


@shared_task(autoretry_for=(KeyError,), max_retries=1, default_retry_delay=0, retry_jitter=False)
def table(rows):
    """A table; a row without a name is a failure."""
    return [row["name"] for row in rows]


@shared_task(pydantic=False, expires=60)
def lines(count):
    """Many lines."""
    return ["line"] * count
