"""From an app and a target to a plan: which queues, which functions, with which limits."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from cloudq.app import CloudQ
from cloudq.broker.deliveries import queue_deliveries
from cloudq.broker.one_time import one_time_group_of
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.tasks.function_hints import FunctionHints
from cloudq_deploy.aws import limits
from cloudq_deploy.aws.plan import (
    UNDELIVERED,
    Alarm,
    Feed,
    Function,
    Plan,
    Queue,
    Schedule,
    Scheduling,
    Table,
)
from cloudq_deploy.aws.schedules import group_name, of_beat, schedules_of
from cloudq_deploy.aws.target import Target
from cloudq_deploy.wanted import AnyTask, merged, plain, queue_names, reads, tasks_of, timeout_of

_FIFO = ".fifo"
# The shape of all regions, also of those to come; a slip of the pen has another.
_REGION = re.compile(r"[a-z]+(-[a-z]+)?-(north|south|central|(north|south)?(east|west))-\d+")
_RETENTION = 14 * 24 * 3600  # the longest that SQS keeps a message
_OURS = ("CLOUDQ_BROKER", "CLOUDQ_BACKEND")


def plan_of(
    app: CloudQ,
    entry: str,
    target: Target,
    schedules: Sequence[Schedule] | None = None,
    *,
    sdk_region: Callable[[], str | None] = lambda: None,
) -> Plan:
    """The plan of a loaded app. Raises `ConfigurationError` for what AWS cannot do.

    `schedules` are in the place of those that the app declares. `sdk_region` is asked where
    neither the target, nor the app's broker, nor the environment says where.
    """
    stack = target.stack or app.name
    region, prefix = _place(app, target, f"{stack}-", sdk_region)
    tasks = tasks_of(app)
    group = group_name(app.name, stack)
    if schedules is None:
        schedules = schedules_of(app) if target.schedules == "cloud" else ()
    names = queue_names(app)
    groups = [names] if target.functions == "one" else [[name] for name in names]
    functions: list[Function] = []
    feeds: list[Feed] = []
    for members in groups:
        own = [task for task in tasks if reads(app, task, members)]
        name = stack if target.functions == "one" else f"{stack}-{plain(members[0])}"
        hints = merged(own)
        functions.append(
            _function(app, target, hints, own, name=name, queues=members, region=region)
        )
        feeds += [_feed(target, hints, queue, name) for queue in members]
    scheduled = {each.queue for each in schedules}
    queues = [
        # What EventBridge Scheduler sends names no key of its own.
        replace(queue, by_content=queue.fifo and queue.name in scheduled)
        for queue in (_queue(app, target, name, prefix, functions, feeds) for name in names)
    ]
    table = _table(app, target, stack)
    scheduling = None
    far = one_time_group_of(app.name) if app.conf.scheduler_eta is not None else None
    if schedules or far:
        scheduling = Scheduling(
            group=group,
            role=f"{stack}-scheduler-{region}",
            dead_name=f"{prefix}{UNDELIVERED}",
            kms_key=target.kms_key,
            far=far,
        )
    broker = f"sqs://{region}?{urlencode({'prefix': prefix})}" if prefix else f"sqs://{region}"
    plan = Plan(
        app=app.name,
        stack=stack,
        region=region,
        entry=entry,
        queues=tuple(queues),
        functions=tuple(functions),
        mappings=tuple(feeds),
        table=table,
        alarms=tuple(_alarms(target, stack, queues, functions, scheduling))
        if target.alarms
        else (),
        schedules=tuple(schedules),
        scheduling=scheduling,
        beat=of_beat(app) if target.schedules == "beat" else {},
        tags={**target.tags, "cloudq:app": app.name, "cloudq:stack": stack},
        broker=broker,
        backend=f"dynamodb://{table.name}?region={region}" if table else "none",
    )
    limits.check(plan)
    return plan


def _place(
    app: CloudQ, target: Target, default_prefix: str, sdk_region: Callable[[], str | None]
) -> tuple[str, str]:
    address = parse(app.conf.broker)
    options: Mapping[str, str] = address.options if address.scheme == "sqs" else {}
    named = (address.host if address.scheme == "sqs" else "") or options.get("region")
    region = (
        target.region
        or named
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or sdk_region()
    )
    if not region:
        raise ConfigurationError(
            "no AWS region: say --region eu-west-1, or set AWS_REGION, or name it in the broker's "
            "URL (sqs://eu-west-1)"
        )
    if not _REGION.fullmatch(region):
        raise ConfigurationError(f"region {region!r} is none of AWS's: they are as eu-west-1")
    return region, options.get("prefix", "") if address.scheme == "sqs" else default_prefix


def _function(
    app: CloudQ,
    target: Target,
    hints: FunctionHints,
    tasks: Sequence[AnyTask],
    *,
    name: str,
    queues: Sequence[str],
    region: str,
) -> Function:
    timeout = timeout_of(app, tasks, hints.timeout or target.timeout)
    taken = [variable for variable in (*target.env, *hints.env) if variable in _OURS]
    if taken:
        raise ConfigurationError(f"env: {taken[0]} is set by the deployment itself")
    return Function(
        name=name,
        role=f"{name}-{region}",
        queues=tuple(queues),
        tasks=tuple(task.name for task in tasks),
        runtime=target.runtime,
        architecture=target.architecture,
        package=target.package,
        memory=hints.memory or target.memory,
        timeout=timeout,
        env={**target.env, **hints.env, "CLOUDQ_MAX_DEPTH": str(app.conf.max_depth)},
        reserved_concurrency=hints.reserved_concurrency,
        provisioned=hints.provisioned or 0,
        tracing=target.tracing,
        layers=target.layers,
        log_group=f"/aws/lambda/{name}",
        log_retention=target.log_retention,
        max_depth=app.conf.max_depth,
    )


def _feed(target: Target, hints: FunctionHints, queue: str, function: str) -> Feed:
    def chosen(given: int | None, default: int | None) -> Any:
        return default if given is None else given

    # SQS gathers nothing for a FIFO queue, and gives ten of its messages at most.
    ordered = queue.endswith(_FIFO)
    size, window = hints.batch_size, hints.batch_window
    return Feed(
        queue=queue,
        function=function,
        batch_size=chosen(size, min(target.batch_size, 10) if ordered else target.batch_size),
        window=chosen(window, 0 if ordered else target.batch_window),
        max_concurrency=chosen(hints.max_concurrency, target.max_concurrency),
    )


def _queue(
    app: CloudQ,
    target: Target,
    name: str,
    prefix: str,
    functions: Sequence[Function],
    feeds: Sequence[Feed],
) -> Queue:
    fifo = name.endswith(_FIFO)
    function = next(each for each in functions if name in each.queues)
    window = next(feed.window for feed in feeds if feed.queue == name)
    full = prefix + name
    return Queue(
        name=name,
        full_name=full,
        dead_name=f"{full.removesuffix(_FIFO)}-dead{_FIFO if fifo else ''}",
        fifo=fifo,
        visibility=max(6 * function.timeout + window, math.ceil(app.conf.lease)),
        retention=_RETENTION,
        max_receive_count=min(queue_deliveries(app.conf.max_deliveries, ordered=fifo), 1000),
        kms_key=target.kms_key,
    )


def _table(app: CloudQ, target: Target, stack: str) -> Table | None:
    url = app.conf.backend_url
    if url is None:
        return None
    address = parse(url)
    named = address.host if address.scheme == "dynamodb" else ""
    return Table(name=named or stack, kms_key=target.kms_key)


def _alarms(
    target: Target,
    stack: str,
    queues: Sequence[Queue],
    functions: Sequence[Function],
    scheduling: Scheduling | None,
) -> Iterable[Alarm]:
    topic = target.alarm_topic
    if scheduling is not None:
        lost = scheduling.dead_name
        yield Alarm(name=f"{stack}-{UNDELIVERED}", metric="dead", of=lost, threshold=0, topic=topic)
    for queue in queues:
        name = f"{stack}-{plain(queue.name)}"
        yield Alarm(
            name=f"{name}-oldest",
            metric="age",
            of=queue.full_name,
            threshold=target.oldest,
            topic=topic,
        )
        yield Alarm(
            name=f"{name}-dead", metric="dead", of=queue.dead_name, threshold=0, topic=topic
        )
    for function in functions:
        for metric in ("errors", "throttles"):
            yield Alarm(
                name=f"{function.name}-{metric}",
                metric=metric,
                of=function.name,
                threshold=0,
                topic=topic,
            )
