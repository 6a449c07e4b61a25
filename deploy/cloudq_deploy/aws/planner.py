"""Plans an app for AWS: queues, functions, table, schedules and alarms, within its limits."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from cloudq.app import CloudQ
from cloudq.broker.deliveries import queue_deliveries
from cloudq.broker.one_time import one_time_group_of
from cloudq.driver import Address, is_ordered, suffixed
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.tasks.function_hints import FunctionHints
from cloudq_deploy.aws import limits
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import (
    UNDELIVERED,
    Alarm,
    EncryptionKey,
    Feed,
    Function,
    Payloads,
    Plan,
    Queue,
    Schedule,
    Scheduling,
    Table,
)
from cloudq_deploy.aws.schedules import group_name, of_beat, schedules_of
from cloudq_deploy.requirements import (
    AnyTask,
    extras_of,
    merged,
    payload_place,
    plain,
    queue_names,
    reads,
    service_keys,
    tasks_of,
    timeout_of,
)

# All regions have this form, later ones too; a misspelt one has not.
_REGION = re.compile(r"[a-z]+(-[a-z]+)?-(north|south|central|(north|south)?(east|west))-\d+")
_RETENTION = 14 * 24 * 3600  # seconds; SQS keeps a message no longer
_RESERVED = ("CLOUDQ_BROKER", "CLOUDQ_BACKEND", "CLOUDQ_PAYLOAD_STORE")


def plan_of(
    app: CloudQ,
    entry: str,
    options: AwsOptions,
    schedules: Sequence[Schedule] | None = None,
    *,
    sdk_region: Callable[[], str | None] | None = None,
) -> Plan:
    """Plan a loaded app. Raises `ConfigurationError` for what AWS cannot do.

    `schedules` replace those that the app declares. `sdk_region` is called if the options, the
    app's broker and the environment name no region.
    """
    stack = options.stack or app.name
    address = _address(app)
    region = _region(options, address, sdk_region)
    # An app on SQS has named its queues already.
    prefix = f"{stack}-" if address is None else address.options.get("prefix", "")
    if schedules is None:
        schedules = schedules_of(app) if options.schedules == "cloud" else ()
    names = queue_names(app)
    functions, feeds = _functions(app, options, names, stack=stack, region=region)
    scheduled = {each.queue for each in schedules}
    queues = [
        # EventBridge Scheduler sends messages without a key for deduplication.
        replace(queue, by_content=queue.fifo and queue.name in scheduled)
        for queue in (_queue(app, options, name, prefix, functions, feeds) for name in names)
    ]
    table = _table(app, options, stack)
    payloads = _payloads(app, region)
    scheduling = _scheduling(app, options, schedules, stack, region, prefix)
    alarms = _alarms(options, stack, queues, functions, scheduling) if options.alarms else ()
    plan = Plan(
        app=app.name,
        stack=stack,
        region=region,
        entry=entry,
        queues=tuple(queues),
        functions=tuple(functions),
        mappings=tuple(feeds),
        table=table,
        alarms=tuple(alarms),
        schedules=tuple(schedules),
        scheduling=scheduling,
        permissions_boundary=options.permissions_boundary,
        beat=of_beat(app) if options.schedules == "beat" else {},
        tags={**options.tags, "cloudq:app": app.name, "cloudq:stack": stack},
        broker=f"sqs://{region}" + (f"?{urlencode({'prefix': prefix})}" if prefix else ""),
        backend=f"dynamodb://{table.name}?region={region}" if table else "none",
        payloads=payloads,
        payload_store=f"s3://{payloads.bucket}/{payloads.prefix}?region={region}"
        if payloads
        else None,
        encryption_keys=tuple(_encryption_keys(app)),
        extras=extras_of(app),
    )
    limits.check(plan)
    return plan


def _address(app: CloudQ) -> Address | None:
    """The app's own address on SQS, if its broker is there."""
    address = parse(app.conf.broker)
    return address if address.scheme == "sqs" else None


def _region(
    options: AwsOptions, address: Address | None, sdk_region: Callable[[], str | None] | None
) -> str:
    named = (address.host or address.options.get("region")) if address else None
    region = (
        options.region
        or named
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or (sdk_region() if sdk_region else None)
    )
    if not region:
        raise ConfigurationError(
            "no AWS region: use --region eu-west-1, or set AWS_REGION, or name it in the broker's "
            "URL (sqs://eu-west-1)"
        )
    if not _REGION.fullmatch(region):
        raise ConfigurationError(
            f"region {region!r} is not a region of AWS: write one such as eu-west-1"
        )
    return region


def _functions(
    app: CloudQ,
    options: AwsOptions,
    names: Sequence[str],
    *,
    stack: str,
    region: str,
) -> tuple[list[Function], list[Feed]]:
    """The functions, and the event source mappings that feed them."""
    tasks = tasks_of(app)
    groups = [names] if options.functions == "one" else [[name] for name in names]
    functions: list[Function] = []
    feeds: list[Feed] = []
    for members in groups:
        own = [task for task in tasks if reads(app, task, members)]
        name = stack if options.functions == "one" else f"{stack}-{plain(members[0])}"
        hints = merged(own)
        functions.append(
            _function(app, options, hints, own, name=name, queues=members, region=region)
        )
        feeds += [_feed(options, hints, queue, name) for queue in members]
    return functions, feeds


def _scheduling(
    app: CloudQ,
    options: AwsOptions,
    schedules: Sequence[Schedule],
    stack: str,
    region: str,
    prefix: str,
) -> Scheduling | None:
    group = one_time_group_of(app.name) if app.conf.scheduler_eta is not None else None
    if not schedules and group is None:
        return None
    return Scheduling(
        group=group_name(app.name, stack),
        role=f"{stack}-scheduler-{region}",
        dead_name=f"{prefix}{UNDELIVERED}",
        kms_key=options.kms_key,
        one_time_group=group,
    )


def _function(
    app: CloudQ,
    options: AwsOptions,
    hints: FunctionHints,
    tasks: Sequence[AnyTask],
    *,
    name: str,
    queues: Sequence[str],
    region: str,
) -> Function:
    timeout = timeout_of(app, tasks, hints.timeout or options.timeout)
    taken = [variable for variable in (*options.env, *hints.env) if variable in _RESERVED]
    if taken:
        raise ConfigurationError(f"env: {taken[0]} is set by the deployment: leave it out")
    return Function(
        name=name,
        role=f"{name}-{region}",
        queues=tuple(queues),
        tasks=tuple(task.name for task in tasks),
        runtime=options.runtime,
        architecture=options.architecture,
        package=options.package,
        memory=hints.memory or options.memory,
        timeout=timeout,
        env={**options.env, **hints.env, "CLOUDQ_MAX_DEPTH": str(app.conf.max_depth)},
        reserved_concurrency=hints.reserved_concurrency,
        provisioned=hints.provisioned or 0,
        tracing=options.tracing,
        layers=options.layers,
        log_group=f"/aws/lambda/{name}",
        log_retention=options.log_retention,
        max_depth=app.conf.max_depth,
    )


def _feed(options: AwsOptions, hints: FunctionHints, queue: str, function: str) -> Feed:
    def chosen(given: int | None, default: int | None) -> Any:
        return default if given is None else given

    # A FIFO queue has no batch window, and at most ten messages in a batch.
    ordered = is_ordered(queue)
    size, window = hints.batch_size, hints.batch_window
    return Feed(
        queue=queue,
        function=function,
        batch_size=chosen(size, min(options.batch_size, 10) if ordered else options.batch_size),
        window=chosen(window, 0 if ordered else options.batch_window),
        max_concurrency=chosen(hints.max_concurrency, options.max_concurrency),
    )


def _queue(
    app: CloudQ,
    options: AwsOptions,
    name: str,
    prefix: str,
    functions: Sequence[Function],
    feeds: Sequence[Feed],
) -> Queue:
    fifo = is_ordered(name)
    function = next(each for each in functions if name in each.queues)
    window = next(feed.window for feed in feeds if feed.queue == name)
    full = prefix + name
    return Queue(
        name=name,
        full_name=full,
        dead_name=suffixed(full, "-dead"),
        fifo=fifo,
        visibility=max(6 * function.timeout + window, math.ceil(app.conf.lease)),
        retention=_RETENTION,
        max_receive_count=min(queue_deliveries(app.conf.max_deliveries, ordered=fifo), 1000),
        kms_key=options.kms_key,
    )


def _table(app: CloudQ, options: AwsOptions, stack: str) -> Table | None:
    url = app.conf.backend_url
    if url is None:
        return None
    address = parse(url)
    named = address.host if address.scheme == "dynamodb" else ""
    return Table(name=named or stack, kms_key=options.kms_key)


def _payloads(app: CloudQ, region: str) -> Payloads | None:
    """The place of large payloads, if the app's own is in S3."""
    found = payload_place(app, "s3")
    if found is None:
        return None
    address, prefix, days = found
    if (named := address.options.get("region", region)) != region:
        raise ConfigurationError(
            f"payload_store {address.url} is in {named}, and the functions are in {region}: put "
            "both in one region"
        )
    return Payloads(bucket=address.host, prefix=prefix, days=days)


def _encryption_keys(app: CloudQ) -> Iterable[EncryptionKey]:
    """Yield the keys of KMS that the app encrypts its messages with."""
    for address in service_keys(app, "awskms"):
        text = "/".join(filter(None, (address.host, address.path)))
        if text.startswith("arn:"):
            _, _, _, region, account, name = text.split(":", 5)
            yield EncryptionKey(name=name, region=region, account=account)
            continue
        name = text if text.startswith("alias/") else f"key/{text}"
        yield EncryptionKey(name=name, region=address.options.get("region"))


def _alarms(
    options: AwsOptions,
    stack: str,
    queues: Sequence[Queue],
    functions: Sequence[Function],
    scheduling: Scheduling | None,
) -> Iterable[Alarm]:
    topic = options.alarm_topic
    if scheduling is not None:
        lost = scheduling.dead_name
        yield Alarm(name=f"{stack}-{UNDELIVERED}", metric="dead", of=lost, threshold=0, topic=topic)
    for queue in queues:
        name = f"{stack}-{plain(queue.name)}"
        yield Alarm(
            name=f"{name}-oldest",
            metric="age",
            of=queue.full_name,
            threshold=options.oldest,
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
