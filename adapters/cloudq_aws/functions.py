"""Lambda functions that run an app's tasks: `handler = lambda_handler(app)`.

One handler takes all events that can carry a task: batches of an SQS queue, direct invocations,
EventBridge Scheduler and EventBridge rules.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from cloudq.app import CloudQ
from cloudq.driver import loader as plugins
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError
from cloudq.execution.direct_call import DirectCall, firing_id, queue_of, run_call
from cloudq.execution.executor import Executor
from cloudq.execution.invocation import Invocation
from cloudq_aws.deadline import Context, deadline
from cloudq_aws.sqs_batch import SqsBatch

if TYPE_CHECKING:
    from cloudq_aws.metrics import Metrics

log = Log("cloudq.lambda")

Event = Mapping[str, Any]
Handler = Callable[[Event, Context | None], dict[str, Any]]

_SHAPES = (
    'this function takes SQS batches ({"Records": [{"eventSource": "aws:sqs", ...}]}), direct '
    'invocations and EventBridge Scheduler inputs ({"task": name, "args": [], "kwargs": {}}), and '
    'EventBridge events whose "detail" is such a call'
)
# A placeholder that was not filled in: it cannot name a firing, since all have it.
_UNFILLED = "<aws.scheduler."


def lambda_handler(
    app: CloudQ, *, reserve: float = 5.0, threads: int = 1, metrics: str | None = None
) -> Handler:
    """Make the handler of a Lambda function that runs this app's tasks.

    Of an SQS batch no task is started with less than its hard time limit left, or `reserve`
    seconds if it has none (half of the invocation's time is always enough). `threads` tasks of a
    batch run at a time; a FIFO queue's run one by one. Modules in `include` are imported here,
    and in a Lambda the broker and the backend are opened here too: once for each process.
    With `metrics`, a CloudWatch namespace, each invocation writes what its tasks came to as
    metrics (see `cloudq_aws.metrics`). Raises `ConfigurationError`.
    """
    if reserve < 0 or threads < 1:
        raise ConfigurationError(f"reserve={reserve} and threads={threads}: at least 0 and 1")
    app.load()
    stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
    executor = app.executor(hostname=stream or "lambda", stop_at_hard_limit=True)
    prefix = plugins.parse(app.conf.broker).options.get("prefix", "")
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        # Initialization has more CPU than the function, and shows errors early.
        _ = app.broker, app.backend

    counted = _metrics(metrics, app, executor) if metrics else None

    def handler(event: Event, context: Context | None) -> dict[str, Any]:
        try:
            return handle(event, context)
        finally:
            if counted is not None:
                counted.write()

    def handle(event: Event, context: Context | None) -> dict[str, Any]:
        invocation = Invocation(
            executor,
            deadline=deadline(context, reserve=reserve),
            log=log,
            heard=counted.add if counted else None,
        )
        with invocation:
            if not _is_batch(event):
                return run_call(invocation, to_call(app, event, context))
            given = cast("list[object]", event["Records"])
            records = list(map(_fields, given))
            return SqsBatch(invocation, records, threads=threads, prefix=prefix).answer()

    return handler


def _metrics(namespace: str, app: CloudQ, executor: Executor) -> Metrics:
    # It loads Powertools, which takes 10 ms of each cold start, and most functions need none.
    from cloudq_aws.metrics import Metrics

    return Metrics(namespace, app.name, executor.tasks)


def _is_batch(event: Event) -> bool:
    if not isinstance(cast("object", event), Mapping):
        raise ConfigurationError(f"an event that is a {type(event).__name__}: {_SHAPES}")
    records = event.get("Records")
    if not isinstance(records, list):
        return False
    given = cast("list[object]", records)
    sources = {str(_fields(each).get("eventSource")) for each in given}
    if given and "aws:sqs" not in sources:
        raise ConfigurationError(f"records from {sorted(sources)}: {_SHAPES}")
    return True


def _fields(value: object) -> Event:
    """Return what a part of an event has, nothing if it is no object."""
    return cast("Event", value) if isinstance(value, Mapping) else {}


# ---- one call, without a queue


def to_call(app: CloudQ, event: Event, context: Context | None) -> DirectCall:
    """Read the call in a direct invocation or an EventBridge event. Raises `ConfigurationError`."""
    request = context.aws_request_id if context is not None else str(uuid4())
    detail = event.get("detail")
    if isinstance(detail, Mapping) and "task" in detail and "task" not in event:
        fields, firing = cast("Event", detail), f"event/{event.get('id', request)}"
    elif "task" in event:
        fields, firing = event, _slot(event.get("schedule"))
    else:
        raise ConfigurationError(f"an event with {sorted(event)}: {_SHAPES}")
    if firing is not None:  # JSON may hold half of a surrogate pair, which no store takes
        firing = firing.encode(errors="backslashreplace").decode()
    # Lambda gives the retries of an asynchronous invocation the same request id.
    id = firing_id(firing) if firing else request
    defaults = {"v": 1, "id": id, "sent_at": round(time.time(), 3)}
    own = {name: value for name, value in fields.items() if name != "schedule"}
    queue = queue_of(fields, app.publisher.builder)
    return DirectCall(fields=defaults | own, queue=queue, request=request, firing=firing)


def _slot(schedule: object) -> str | None:
    """Make the name of one firing: the schedule and the time it was due."""
    if schedule is None:
        return None
    given: Event = cast("Event", schedule) if isinstance(schedule, Mapping) else {}
    name, due = given.get("name"), given.get("time")
    if not isinstance(name, str) or not isinstance(due, str):
        raise ConfigurationError(
            'a "schedule" is {"name": ..., "time": "<aws.scheduler.scheduled-time>"}, '
            f"not {schedule!r}"
        )
    if due.startswith(_UNFILLED):
        log.warning("schedule %s: its time is not filled in, so a second firing will run", name)
        return None
    return f"schedule/{name}@{due}"
