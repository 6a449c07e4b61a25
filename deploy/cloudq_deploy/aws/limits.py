"""Checks a plan against the limits of AWS, before anything is made.

Sources: the quotas pages of Lambda, SQS, DynamoDB, IAM and CloudWatch, and the Lambda guide's
pages on SQS event sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cloudq.driver import ORDERED_SUFFIX, is_ordered
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.plan import Feed, Function, Plan
from cloudq_deploy.naming import Naming

_NAMES = Naming(
    "AWS",
    {
        "queue": (80, rf"[A-Za-z0-9_-]+({re.escape(ORDERED_SUFFIX)})?"),
        "function": (64, r"[A-Za-z0-9_-]+"),
        "role": (64, r"[A-Za-z0-9+=,.@_-]+"),
        "table": (255, r"[A-Za-z0-9_.-]{3,}"),
        "stack": (128, r"[A-Za-z][A-Za-z0-9-]*"),
        "schedule": (64, r"[0-9A-Za-z_.-]+"),
        "schedule group": (64, r"[0-9A-Za-z_.-]+"),
        "alarm": (255, r"\S.*"),
        "bucket": (63, r"[a-z0-9][a-z0-9.-]+[a-z0-9]"),
    },
)
_LONGEST = 900
_MEMORY = (128, 10_240)
_ENV = 4096


def check(plan: Plan) -> None:
    """Raise `ConfigurationError` for the first part of the plan that AWS would refuse."""
    _NAMES.check("stack", [plan.stack], "--stack")
    _NAMES.check(
        "queue",
        [name for queue in plan.queues for name in (queue.full_name, queue.dead_name)],
        "the queue, or prefix= of the broker's URL",
    )
    _NAMES.check("function", [function.name for function in plan.functions], "--stack or the queue")
    _NAMES.check("role", [function.role for function in plan.functions], "--stack or the queue")
    _NAMES.check("table", [plan.table.name] if plan.table else [], "the table in the backend's URL")
    _NAMES.check("bucket", [plan.payloads.bucket] if plan.payloads else [], "payload_store")
    _NAMES.check("alarm", [alarm.name for alarm in plan.alarms], "--stack or the queue")
    _NAMES.check("schedule", [schedule.name for schedule in plan.schedules], "the schedule")
    if plan.scheduling:
        _NAMES.check("schedule group", [plan.scheduling.group], "--stack")
        _NAMES.check("role", [plan.scheduling.role], "--stack")
        _NAMES.check("queue", [plan.scheduling.dead_name], "prefix= of the broker's URL")
        if plan.scheduling.dead_name in {queue.full_name for queue in plan.queues}:
            raise ConfigurationError(
                f"queue {plan.scheduling.dead_name} is reserved for messages that EventBridge "
                "Scheduler could not send: give your queue another name"
            )
    _check_unique(function.name for function in plan.functions)
    for function in plan.functions:
        _check_function(function)
    functions = {function.name: function for function in plan.functions}
    for feed in plan.mappings:
        _check_feed(feed, functions[feed.function])


def _check_unique(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigurationError(
                f"two queues would share the function {name}: rename a queue, or use --functions "
                "one"
            )
        seen.add(name)


def _check_function(function: Function) -> None:
    of = f"function {function.name} ({', '.join(function.tasks) or 'no tasks'})"
    if function.timeout > _LONGEST:
        raise ConfigurationError(
            f"{of}: timeout is {function.timeout} s, and Lambda stops a function after {_LONGEST} "
            "s: "
            "split the task, or run its queue with `cloudq worker`"
        )
    if not _MEMORY[0] <= function.memory <= _MEMORY[1]:
        raise ConfigurationError(
            f"{of}: memory is {function.memory} MB, and Lambda allows {_MEMORY[0]} to {_MEMORY[1]}"
        )
    if sum(len(name) + len(value) for name, value in function.env.items()) > _ENV:
        raise ConfigurationError(
            f"{of}: env is over {_ENV} bytes: Lambda allows 4 KB for all variables of a function"
        )
    for name in function.env:
        if len(name) < 2:
            raise ConfigurationError(
                f"{of}: env has {name}: Lambda requires names of two characters or more"
            )
        if name.startswith(("AWS_", "LAMBDA_", "_")):
            raise ConfigurationError(f"{of}: env has {name}, a name that Lambda reserves")
    reserved = function.reserved_concurrency
    if reserved is not None and function.provisioned > reserved:
        raise ConfigurationError(
            f"{of}: provisioned is {function.provisioned}, more than reserved_concurrency "
            f"({reserved}): lower one, or raise the other"
        )
    if function.layers and function.package == "image":
        raise ConfigurationError(
            f"{of}: functions that run an image have no layers: copy them into the image"
        )
    if len(function.layers) > 5:
        raise ConfigurationError(f"{of}: {len(function.layers)} layers, and Lambda allows 5")


def _check_feed(feed: Feed, function: Function) -> None:
    of = f"queue {feed.queue}"
    ordered = is_ordered(feed.queue)
    most = 10 if ordered else 10_000
    if feed.batch_size > most:
        raise ConfigurationError(
            f"{of}: batch_size is {feed.batch_size}, and Lambda allows {most} for such a queue"
        )
    if ordered and feed.window:
        raise ConfigurationError(
            f"{of}: batch_window is {feed.window}: FIFO queues have none, so set it to 0"
        )
    if feed.window > 300:
        raise ConfigurationError(f"{of}: batch_window is {feed.window} s, and Lambda allows 300")
    if feed.batch_size > 10 and not feed.window:
        raise ConfigurationError(
            f"{of}: batch_size is {feed.batch_size}: more than 10 needs batch_window=1 or more"
        )
    limit, reserved = feed.max_concurrency, function.reserved_concurrency
    if limit is not None and not 2 <= limit <= 1000:
        raise ConfigurationError(
            f"{of}: max_concurrency is {limit}, and Lambda allows 2 to 1000; to run one at a time, "
            "use a FIFO queue, or the task option concurrency=1"
        )
    if limit is not None and reserved is not None and reserved < limit:
        raise ConfigurationError(
            f"{of}: max_concurrency is {limit}, more than the reserved_concurrency ({reserved}) of "
            f"{function.name}, so calls would be throttled: lower it, or raise the other"
        )
