"""From an app and a target to a plan: queues, triggers, timers, with which limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

from cloudq.app import CloudQ
from cloudq.broker.deliveries import queue_deliveries
from cloudq.driver import Address
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.schedules import cloud_cron as dialects
from cloudq.schedules.entry import Entry
from cloudq.schedules.when import crontab
from cloudq.tasks.function_hints import FunctionHints
from cloudq_deploy.azure import limits
from cloudq_deploy.azure.plan import Alert, FunctionApp, Plan, Queue, Refused, Timer
from cloudq_deploy.azure.target import AzureTarget
from cloudq_deploy.wanted import merged, queue_names, reads, tasks_of, timeout_of

_LOCKS = (5, 300)
_MOST_DELIVERIES = 2000
_TABLE = "cloudq"
_OURS = ("CLOUDQ_BROKER", "CLOUDQ_BACKEND", "CLOUDQ_INVOCATION_TIMEOUT")
_UTC = frozenset({"UTC", "Etc/UTC"})
_NAMING = ("prefix", "tier")
# What a timer hands on of a schedule's call.
_HANDED_ON = frozenset({"queue"})


def plan_of(app: CloudQ, entry: str, target: AzureTarget) -> Plan:
    """The plan of a loaded app. Raises `ConfigurationError` for what Azure cannot do."""
    stack = target.stack or app.name
    location = limits.check_place(target.region)
    address = parse(app.conf.broker)
    options = _options(address, f"{stack}-")
    namespace = target.namespace or _named(address) or f"{stack}-queues"
    tasks, names = tasks_of(app), queue_names(app)
    hints = {
        name: target.heeded(merged([task for task in tasks if reads(app, task, [name])]))
        for name in names
    }
    for name, each in hints.items():
        _refuse_hints(each, f"queue {name}")
    stated = max((each.timeout for each in hints.values() if each.timeout), default=None)
    function_app = _function_app(
        app, target, f"{stack}-tasks", hints, timeout_of(app, tasks, stated or target.timeout)
    )
    queues = [
        _queue(app, name, options.get("prefix", ""), hints[name].provisioned or 0) for name in names
    ]
    timers: list[Timer] = []
    refused: list[Refused] = []
    for found in _timers(app) if target.schedules == "cloud" else ():
        (timers if isinstance(found, Timer) else refused).append(found)  # type: ignore[arg-type]
    account, table = _store(app, target, stack)
    plan = Plan(
        app=app.name,
        stack=stack,
        location=location,
        entry=entry,
        resource_group=target.resource_group or stack,
        namespace=namespace,
        premium=options.get("tier") == "premium",
        queues=tuple(queues),
        function_app=function_app,
        timers=tuple(timers),
        refused=tuple(refused),
        account=account,
        replication=target.replication,
        table=table,
        identity=f"{stack}-tasks",
        alerts=tuple(_alerts(queues)) if target.alarms else (),
        log_retention=target.log_retention,
        action_group=target.action_group,
        tags={**target.tags, "cloudq-app": app.name, "cloudq-stack": stack},
        broker=f"servicebus://{namespace}" + (f"?{urlencode(options)}" if options else ""),
        backend=f"aztables://{account}/{table}" if table else "none",
    )
    limits.check(plan)
    return plan


def _named(address: Address) -> str:
    """The namespace in the app's own URL; an emulator's host is none."""
    if address.scheme != "servicebus" or address.options.get("emulator"):
        return ""
    return address.host.partition(".")[0]


def _options(address: Address, prefix: str) -> dict[str, str]:
    if address.scheme != "servicebus":
        return {"prefix": prefix}
    return {name: value for name, value in address.options.items() if name in _NAMING and value}


def _function_app(
    app: CloudQ, target: AzureTarget, name: str, hints: Mapping[str, FunctionHints], timeout: int
) -> FunctionApp:
    name = target.function_app or name
    env: dict[str, tuple[str, str]] = {key: (value, "all") for key, value in target.env.items()}
    for queue, each in hints.items():
        for key, value in each.env.items():
            before = env.get(key)
            if before is not None and before[1] != "all" and before[0] != value:
                raise ConfigurationError(
                    f"env {key} is {before[0]!r} for {before[1]} and {value!r} for {queue}, and "
                    "one function app runs both: give them the same"
                )
            env[key] = value, queue
    taken = [variable for variable in env if variable in _OURS]
    if taken:
        raise ConfigurationError(f"env: {taken[0]} is set by the deployment itself")
    memory = max([target.memory, *(each.memory for each in hints.values() if each.memory)])
    return FunctionApp(
        name=name,
        python=target.python,
        memory=limits.size_of(memory, f"function app {name}"),
        timeout=timeout,
        concurrency=target.concurrency,
        sessions=target.sessions,
        max_instances=target.max_instances,
        env={
            **{key: value for key, (value, _) in env.items()},
            "CLOUDQ_MAX_DEPTH": str(app.conf.max_depth),
            "CLOUDQ_INVOCATION_TIMEOUT": str(timeout),
        },
        max_depth=app.conf.max_depth,
    )


def _refuse_hints(hints: FunctionHints, of: str) -> None:
    for name in ("max_concurrency", "reserved_concurrency"):
        if getattr(hints, name) is not None:
            raise ConfigurationError(
                f"{of}: {name} is {getattr(hints, name)}, and Azure bounds the instances of a "
                "whole function app: use the task option concurrency, or name it in ignore of "
                "[tool.cloudq.deploy.azure]"
            )
    if hints.batch_window or (hints.batch_size or 1) > 1:
        raise ConfigurationError(
            f"{of}: batch_size and batch_window: the trigger hands over one message at a time, "
            "since the host renews no locks of a batch: leave them out, or name them in ignore"
        )


def _queue(app: CloudQ, name: str, prefix: str, always_ready: int) -> Queue:
    fifo = name.endswith(".fifo")
    deliveries = queue_deliveries(app.conf.max_deliveries, ordered=fifo)
    own = [task.name for task in tasks_of(app) if reads(app, task, [name])]
    return Queue(
        name=name,
        full_name=prefix + name,
        function=f"cloudq_{re.sub(r'[^A-Za-z0-9_-]', '_', name)}",
        fifo=fifo,
        lock=min(max(math.ceil(app.conf.lease), _LOCKS[0]), _LOCKS[1]),
        max_delivery_count=min(deliveries, _MOST_DELIVERIES),
        tasks=tuple(own),
        always_ready=always_ready,
    )


def _store(app: CloudQ, target: AzureTarget, stack: str) -> tuple[str, str | None]:
    """The storage account, which the host needs in any case, and the table for results."""
    own = target.account or f"{re.sub(r'[^a-z0-9]', '', stack.lower())}store"
    url = app.conf.backend_url
    if url is None:
        return own, None
    address = parse(url)
    if address.scheme != "aztables" or address.options.get("endpoint"):
        return own, _TABLE
    if target.account and address.host != target.account:
        raise ConfigurationError(
            f"the backend {url} is of the account {address.host}, and account in "
            f"[tool.cloudq.deploy.azure] is {target.account}: leave one of them out"
        )
    return address.host or own, address.path or _TABLE


def _timers(app: CloudQ) -> Iterator[Timer | Refused]:
    for name, entry in app.schedules.declared().items():
        if not entry.enabled:
            continue
        queue = entry.options.get("queue")
        try:
            expressions = dialects.ncrontab(entry)
            _check_entry(entry)
        except ConfigurationError as error:
            yield Refused(name=name, why=str(error))
            continue
        for number, expression in enumerate(expressions, start=1):
            timer = name if number == 1 else f"{name}-{number}"
            yield Timer(name=_plain(timer), entry=name, expression=expression, queue=queue)


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _check_entry(entry: Entry) -> None:
    if isinstance(entry.when, crontab) and entry.timezone not in _UTC:
        raise _refusal(entry, "they run in UTC on Linux, and this is in " + entry.timezone)
    if entry.jitter or entry.start or entry.end or entry.expires is not None:
        raise _refusal(entry, "they know no jitter, start, end and expires")
    others = entry.options.keys() - _HANDED_ON
    if others:
        raise _refusal(entry, f"they hand on no option but queue, and this has {min(others)}")


def _refusal(entry: Entry, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"schedule {entry.name!r}: a timer of Azure Functions cannot run it: {why}: run a beat "
        "for it"
    )


def _alerts(queues: Sequence[Queue]) -> Iterator[Alert]:
    for queue in queues:
        yield Alert(
            name=f"{queue.full_name}-dead",
            metric="DeadletteredMessages",
            of=queue.full_name,
            threshold=0,
        )
