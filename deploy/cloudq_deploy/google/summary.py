"""Summarizes a plan for people: each resource with its settings."""

from __future__ import annotations

from collections.abc import Iterator

from cloudq_deploy.google.iam import grants
from cloudq_deploy.google.plan import Function, Plan, Queue

Row = tuple[str, str, str]
"""The kind of a resource, its name, its settings."""


def summary(plan: Plan) -> Iterator[Row]:
    """Yield each resource of the plan: its kind, its name, its settings."""
    for queue in plan.queues:
        yield from _queue(queue)
    for function in plan.functions:
        yield _function(function)
    yield "bucket", plan.bucket, "the functions' zip"
    if plan.payloads:
        kept = f"large payloads under {plan.payloads.prefix or '/'}, kept {plan.payloads.days} d"
        yield "bucket", plan.payloads.bucket, kept
    if plan.store:
        where = f"collection {plan.store.collection}, TTL on {plan.store.ttl}, no indexes"
        yield "database", plan.store.database, where
    for account, of in ((plan.runtime_account, "functions"), (plan.push_account, "pushes")):
        yield "account", plan.email(account), f"of {of}"
    for grant in grants(plan):
        on = f"{grant.kind} {grant.on}"
        on += f", only its database {grant.database}" if grant.database else ""
        yield "grant", grant.role, f"{grant.who} on {on}: {grant.why}"
    yield from _schedules(plan)
    yield "logs", "cloud_run_revision", f"kept {plan.log_retention} d"
    for alert in plan.alerts:
        yield "alarm", alert.name, f"{alert.metric} of {alert.of} above {alert.threshold:g}"


def _queue(queue: Queue) -> Iterator[Row]:
    order = ", ordered" if queue.fifo else ""
    only = f", filter {queue.filter}" if queue.filter else ""
    yield "topic", queue.topic, f"of the queue {queue.name}"
    yield (
        "subscription",
        queue.subscription,
        f"pushes to {queue.function}, ack deadline {queue.ack_deadline} s, again after "
        f"{queue.backoff[0]}-{queue.backoff[1]} s, kept {queue.retention // 86_400} d, "
        f"dead letters after {queue.max_attempts} deliveries{order}{only}",
    )
    yield "dead letters", queue.dead_topic, "topic and subscription, kept 31 d"


def _function(function: Function) -> Row:
    return (
        "function",
        function.name,
        f"{function.runtime}, {function.memory} MB, {function.timeout} s, "
        f"{function.concurrency} at a time in each of {function.min_instances} to "
        f"{function.max_instances} instances, {function.ingress}, depth {function.max_depth}, "
        f"env {', '.join(sorted(function.env))}; runs "
        f"{', '.join(function.tasks) or 'any task sent to its queue'}",
    )


def _schedules(plan: Plan) -> Iterator[Row]:
    if plan.delays:
        made = (
            "NOT MADE HERE: make it with `cloudq queues create`; its rights:"
            " docs/how-to/run-on-google-cloud.md"
        )
        yield "delays", plan.delays, made
    for job in plan.jobs:
        paused = "" if job.enabled else ", paused"
        yield "schedule", job.name, f"{job.expression} {job.timezone} -> {job.queue}{paused}"
    for refused in plan.refused:
        yield "schedule", refused.name, f"NOT POSSIBLE: {refused.why}"
