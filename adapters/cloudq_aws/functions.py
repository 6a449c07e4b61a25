"""Lambda functions that run an app's tasks: `handler = lambda_handler(app)`.

One handler takes all events that can carry a task: batches of an SQS queue, direct invocations,
EventBridge Scheduler and EventBridge rules.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import NAMESPACE_URL, uuid4, uuid5

from cloudq import idempotency, plugins
from cloudq.app import CloudQ
from cloudq.driver import Delivery, Key
from cloudq.errors import ConfigurationError, DecodeError, Retry, UnknownTask
from cloudq.execution import Executor
from cloudq.record import Record, State
from cloudq.settlement import Action, Settlement
from cloudq_aws.deadline import Context, Deadline
from cloudq_aws.sqs_batch import SqsBatch, durable, log_outcome

log = logging.getLogger("cloudq.lambda")

Event = Mapping[str, Any]
Handler = Callable[[Event, Context | None], dict[str, Any]]

_SHAPES = (
    'this function takes SQS batches ({"Records": [{"eventSource": "aws:sqs", ...}]}), direct '
    'invocations and EventBridge Scheduler inputs ({"task": name, "args": [], "kwargs": {}}), and '
    'EventBridge events whose "detail" is such a call'
)
# A placeholder that nobody has filled in: the same for every firing, so no name of one.
_UNFILLED = "<aws.scheduler."
# A firing is remembered at least this long; Scheduler and Lambda give up retrying after a day.
_REMEMBERED = 2 * 86_400.0


def lambda_handler(app: CloudQ, *, reserve: float = 5.0, threads: int = 1) -> Handler:
    """The handler of a Lambda function that runs this app's tasks.

    Of an SQS batch no task is started with less than its hard time limit left, or `reserve`
    seconds if it has none (half of the invocation's time is always enough). `threads` tasks of a
    batch run at a time; a FIFO queue's run one by one. Modules in `include` are imported here,
    and in a Lambda the broker and the backend are opened here too: once for each process.
    Raises `ConfigurationError`.
    """
    if reserve < 0 or threads < 1:
        raise ConfigurationError(f"reserve={reserve} and threads={threads}: at least 0 and 1")
    app.load()
    stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
    executor = app.executor(hostname=stream or "lambda", stop_at_hard_limit=True)
    prefix = plugins.parse(app.conf.broker).options.get("prefix", "")
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        # The initialization has more CPU than the function, and is where errors are seen first.
        _ = app.broker, app.backend

    def handler(event: Event, context: Context | None) -> dict[str, Any]:
        deadline = Deadline(context, reserve=reserve)
        if _is_batch(event):
            batch = SqsBatch(app, executor, deadline, threads=threads, prefix=prefix)
            with batch(records=event["Records"], handler=batch.run):
                batch.process()
            return cast("dict[str, Any]", batch.response())
        return run_call(app, executor, deadline, to_call(event, context))

    return handler


def _is_batch(event: Event) -> bool:
    records = event.get("Records")
    if not isinstance(records, list):
        return False
    sources = {record.get("eventSource") for record in cast("list[dict[str, Any]]", records)}
    if sources - {"aws:sqs"}:
        raise ConfigurationError(f"records from {sorted(map(str, sources))}: {_SHAPES}")
    return True


# ---- one call, without a queue


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectCall:
    """One call out of an event: a message's fields, and who makes it.

    `firing` names what must run once although it may be invoked twice; `request` the invocation:
    Lambda gives the retries of an asynchronous one the same id.
    """

    fields: Mapping[str, Any]
    request: str
    firing: str | None = None


def to_call(event: Event, context: Context | None) -> DirectCall:
    """The call in a direct invocation or an EventBridge event. Raises `ConfigurationError`."""
    request = context.aws_request_id if context is not None else str(uuid4())
    detail = event.get("detail")
    if isinstance(detail, Mapping) and "task" in detail and "task" not in event:
        fields, firing = cast("Event", detail), f"event/{event.get('id', request)}"
    elif "task" in event:
        fields, firing = event, _slot(event.get("schedule"))
    else:
        raise ConfigurationError(f"an event with {sorted(event)}: {_SHAPES}")
    id = str(uuid5(NAMESPACE_URL, f"cloudq/{firing}")) if firing else request
    defaults = {"v": 1, "id": id, "sent_at": round(time.time(), 3)}
    own = {name: value for name, value in fields.items() if name != "schedule"}
    return DirectCall(fields=defaults | own, request=request, firing=firing)


def _slot(schedule: object) -> str | None:
    """The name of one firing: the schedule and the time it was due."""
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


def run_call(
    app: CloudQ, executor: Executor, deadline: Deadline, call: DirectCall
) -> dict[str, Any]:
    """Run a call and say what became of it; of a firing that has been run, or runs, say that.

    Raises when nothing durable came of it, so that Lambda or Scheduler tries again: `Retry`,
    `BackendError`, `BrokerError`; and for a call that can never run: `UnknownTask`, `DecodeError`.
    """
    firing, backend = call.firing, app.backend
    if firing is None or backend is None:
        return _run_call(app, executor, deadline, call)
    key = Key(f"firing#{firing}")
    # A process that dies leaves the claim to the retry, which has the same request id.
    claim = idempotency.claim(backend, key, call.request, min(deadline.remaining(), _REMEMBERED))
    if not isinstance(claim, idempotency.Claimed):
        log.info("%s was fired twice: it runs once", firing)
        return {"duplicate": True} | _standing(app, str(call.fields["id"]))
    answer = _run_call(app, executor, deadline, call)
    done = idempotency.completed(key, call.request, None, time.time() + _REMEMBERED)
    backend.put([done])
    return answer


def _run_call(
    app: CloudQ, executor: Executor, deadline: Deadline, call: DirectCall
) -> dict[str, Any]:
    delivery, id = _delivery(app, call), str(call.fields["id"])
    jobs, settled = executor.open([delivery])
    settlement = deadline.run(executor, jobs[0]) if jobs else settled[0][1]
    if settlement.action is Action.DEAD_LETTER and settlement.state is None:
        undecodable = not settlement.task_id
        raise (DecodeError if undecodable else UnknownTask)(settlement.reason)
    committed = durable([(delivery, settlement)], app)
    if committed.error is not None and committed.failed:
        raise committed.error
    final = committed.ready[0][1]
    if final.action is Action.RELEASE:
        raise Retry(final.reason)
    log_outcome(settlement)
    if final.state is not settlement.state:  # its result was too large to keep
        return _standing(app, id)
    record = settlement.record
    return _answer(record) if record and record.terminal else _bare(app, id, settlement)


def _delivery(app: CloudQ, call: DirectCall) -> Delivery:
    """The call as if a queue had delivered it: where its retries will go."""
    task = app.tasks.get(str(call.fields["task"]))
    own = task.policy.queue if task else None
    queue = call.fields.get("queue") or own or app.conf.task_default_queue
    body = json.dumps(dict(call.fields)).encode()
    return Delivery(
        queue=str(queue), id=call.request, body=body, receipt=None, attempts=1, lease=0.0
    )


def _bare(app: CloudQ, id: str, settlement: Settlement) -> dict[str, Any]:
    """The answer where this run has left no record: it was done, sent on, or ignores results."""
    if settlement.state is not None:
        error = settlement.error
        name = {"error_type": type(error).__qualname__, "error": str(error)} if error else {}
        return {"id": id, "state": str(settlement.state)} | name
    return _standing(app, id) | {"reason": settlement.reason}


def _standing(app: CloudQ, id: str) -> dict[str, Any]:
    record = app.backend.record(id) if app.backend is not None else None
    return _answer(record or Record(id=id, state=State.PENDING))


def _answer(record: Record) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": record.id, "state": str(record.state)}
    if record.state is State.SUCCESS:
        answer["result"] = None if record.value is None else json.loads(record.value)
    if record.error is not None:
        answer |= {"error_type": record.error_type, "error": record.error}
    return answer
