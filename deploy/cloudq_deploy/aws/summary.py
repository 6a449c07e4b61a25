"""Summarizes a plan for people: each resource with its settings."""

from __future__ import annotations

from collections.abc import Iterator

from cloudq.amounts import counted
from cloudq_deploy.aws.plan import Function, Plan, Queue

Row = tuple[str, str, str]
"""The kind of a resource, its name, its settings."""


def summary(plan: Plan) -> Iterator[Row]:
    """Yield each resource of the plan: its kind, its name, its settings."""
    for queue in plan.queues:
        yield from _queue(queue)
    for function in plan.functions:
        yield from _function(function)
    for feed in plan.mappings:
        limit = f", at most {feed.max_concurrency} at a time" if feed.max_concurrency else ""
        yield (
            "event source",
            f"{feed.queue} -> {feed.function}",
            f"batches of {feed.batch_size}, window {feed.window} s, {feed.report}{limit}",
        )
    if plan.table:
        yield "table", plan.table.name, f"{plan.table.billing}, TTL on {plan.table.ttl}"
    if plan.payloads:
        settings = (
            f"large payloads under {plan.payloads.prefix or '/'}, kept {plan.payloads.days} d"
        )
        yield "bucket", plan.payloads.bucket, f"{settings}; it belongs to no stack, and stays"
    for key in plan.encryption_keys:
        yield "key", key.name, "encrypts messages; it belongs to no stack, and stays"
    yield from _schedules(plan)
    for alarm in plan.alarms:
        yield "alarm", alarm.name, f"{alarm.metric} of {alarm.of} above {alarm.threshold:g}"


def _queue(queue: Queue) -> Iterator[Row]:
    yield (
        "queue",
        queue.full_name,
        f"visibility {queue.visibility} s, kept 14 d, {queue.encryption}, dead letters after "
        f"{queue.max_receive_count} receives",
    )
    yield "dead letters", queue.dead_name, f"kept 14 d, {queue.encryption}"


def _function(function: Function) -> Iterator[Row]:
    reserved = function.reserved_concurrency
    more = "" if reserved is None else f", reserved {reserved}"
    more += f", {function.provisioned} kept warm" if function.provisioned else ""
    more += f", {counted(len(function.layers), 'layer')}" if function.layers else ""
    yield (
        "function",
        function.name,
        f"{function.runtime} {function.architecture} {function.package}, {function.memory} MB, "
        f"{function.timeout} s{more}, recursive loop {function.recursive_loop} (depth "
        f"{function.max_depth}), tracing {function.tracing}, env "
        f"{', '.join(sorted(function.env))}; runs "
        f"{', '.join(function.tasks) or 'any task sent to its queue'}",
    )
    yield "role", function.role, "its queues, the table, its log: `cloudq deploy iam`"
    yield "log", function.log_group, f"kept {function.log_retention} d"


def _schedules(plan: Plan) -> Iterator[Row]:
    for schedule in plan.schedules:
        disabled = "" if schedule.enabled else ", disabled"
        settings = f"{schedule.expression} {schedule.timezone} -> {schedule.queue}{disabled}"
        yield "schedule", schedule.name, settings
    scheduling = plan.scheduling
    if scheduling:
        yield "schedule group", scheduling.group, "all schedules of the app"
        yield "role", scheduling.role, "EventBridge Scheduler sends to the queues with it"
        yield "queue", scheduling.dead_name, "messages that it could not send, kept 14 d"
        if scheduling.one_time_group:
            settings = "long-delayed calls; the first of them makes it"
            yield "schedule group", scheduling.one_time_group, settings
    for name, when in plan.beat.items():
        yield "needs a beat", name, f"{when}: run `cloudq beat`; the stack does not run it"
