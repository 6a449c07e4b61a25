"""Summarizes a plan for people: each resource with its settings."""

from __future__ import annotations

from collections.abc import Iterator

from cloudq_deploy.azure.iam import grants
from cloudq_deploy.azure.plan import FunctionApp, Plan, Queue

Row = tuple[str, str, str]
"""The kind of a resource, its name, its settings."""


def summary(plan: Plan) -> Iterator[Row]:
    """Yield each resource of the plan: its kind, its name, its settings."""
    yield "resource group", plan.resource_group, plan.location
    tier = "Premium" if plan.premium else "Standard"
    yield "namespace", plan.namespace, f"Service Bus {tier}, no keys"
    for queue in plan.queues:
        yield _queue(queue)
    yield _function_app(plan.function_app)
    yield from _triggers(plan)
    yield "storage", plan.account, f"{plan.replication}: data of the Functions host, and the zip"
    if plan.table is not None:
        yield "table", plan.table, "results; `cloudq sweep` once a day deletes expired ones"
    if plan.payloads is not None:
        kept = f"large payloads under {plan.payloads.prefix or '/'}, kept {plan.payloads.days} d"
        yield "container", plan.payloads.container, kept
    yield "identity", plan.identity, "the function app runs as it"
    for grant in grants(plan):
        yield "grant", grant.role, f"{plan.identity} on {grant.kind} {grant.on}: {grant.why}"
    kept = max(plan.log_retention, 30)
    yield "logs", f"{plan.stack}-logs", f"kept {kept} d, with Application Insights"
    for alert in plan.alerts:
        yield "alarm", alert.name, f"{alert.metric} of {alert.of} above {alert.threshold:g}"


def _queue(queue: Queue) -> Row:
    ordered = ", sessions, duplicates dropped for 10 min" if queue.fifo else ""
    return (
        "queue",
        queue.full_name,
        f"lock {queue.lock} s, dead letters after {queue.max_delivery_count} deliveries{ordered}",
    )


def _function_app(function_app: FunctionApp) -> Row:
    return (
        "function app",
        function_app.name,
        f"Flex Consumption, python {function_app.python}, {function_app.memory} MB, "
        f"{function_app.timeout} s, {function_app.concurrency} at a time in each of up to "
        f"{function_app.max_instances} instances, depth {function_app.max_depth}, env "
        f"{', '.join(sorted(function_app.env))}",
    )


def _triggers(plan: Plan) -> Iterator[Row]:
    for queue in plan.queues:
        ready = f", {queue.always_ready} always ready" if queue.always_ready else ""
        runs = ", ".join(queue.tasks) or "any task sent to its queue"
        yield "trigger", queue.function, f"{queue.full_name}{ready}; runs {runs}"
    for timer in plan.timers:
        at = f"{timer.expression} UTC -> {timer.queue or 'the queue of its task'}"
        yield "timer", f"cloudq_{timer.name}", at
    for refused in plan.refused:
        yield "timer", refused.name, f"NOT POSSIBLE: {refused.why}"
