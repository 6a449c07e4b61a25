"""A plan as lines for people: each resource, and its settings."""

from __future__ import annotations

from collections.abc import Iterator

from cloudq_deploy.aws.plan import Plan


def rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Each resource: what it is, its name, its settings."""
    for queue in plan.queues:
        yield (
            "queue",
            queue.full_name,
            f"visibility {queue.visibility} s, kept 14 d, {queue.encryption}, dead letters after "
            f"{queue.max_receive_count} receives",
        )
        yield "dead letters", queue.dead_name, f"kept 14 d, {queue.encryption}"
    for each in plan.functions:
        more = (
            f", reserved {each.reserved_concurrency}"
            if each.reserved_concurrency is not None
            else ""
        )
        more += f", {each.provisioned} kept warm" if each.provisioned else ""
        more += f", {len(each.layers)} layers" if each.layers else ""
        env = ", ".join(sorted(each.env))
        yield (
            "function",
            each.name,
            f"{each.runtime} {each.architecture} {each.package}, {each.memory} MB, {each.timeout} s"
            f"{more}, recursive loop {each.recursive_loop} (depth {each.max_depth}), tracing "
            f"{each.tracing}, env {env}; runs {', '.join(each.tasks) or 'what is sent there'}",
        )
        yield "role", each.role, "its queues, the table, its log: `cloudq deploy iam`"
        yield "log", each.log_group, f"kept {each.log_retention} d"
    for feed in plan.mappings:
        limit = f", at most {feed.max_concurrency} at a time" if feed.max_concurrency else ""
        yield (
            "event source",
            f"{feed.queue} -> {feed.function}",
            f"batches of {feed.batch_size}, window {feed.window} s, {feed.report}{limit}",
        )
    if plan.table:
        yield "table", plan.table.name, f"{plan.table.billing}, TTL on {plan.table.ttl}"
    for schedule in plan.schedules:
        yield (
            "schedule",
            schedule.name,
            f"{schedule.expression} {schedule.timezone} -> {schedule.queue}"
            + ("" if schedule.enabled else ", disabled"),
        )
    if plan.scheduling:
        yield "schedule group", plan.scheduling.group, "all of the app's schedules"
        yield "role", plan.scheduling.role, "EventBridge Scheduler's: sends to the queues"
        yield "queue", plan.scheduling.dead_name, "what it could not send, kept 14 d"
        if plan.scheduling.far:
            yield "schedule group", plan.scheduling.far, "far calls; the first of them makes it"
    for name, when in plan.beat.items():
        yield "needs a beat", name, f"{when}: run `cloudq beat`, which the stack has not"
    for alarm in plan.alarms:
        yield "alarm", alarm.name, f"{alarm.metric} of {alarm.of} above {alarm.threshold:g}"
