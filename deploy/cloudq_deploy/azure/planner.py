"""Plans an app for Azure: queues, the function app, timers, alerts, within its limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

from cloudq.app import CloudQ
from cloudq.broker.deliveries import queue_deliveries
from cloudq.driver import Address, is_ordered
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.schedules import cloud_cron
from cloudq.schedules.entry import Entry
from cloudq.schedules.when import crontab
from cloudq.tasks.function_hints import FunctionHints
from cloudq_deploy.azure import limits
from cloudq_deploy.azure.options import AzureOptions
from cloudq_deploy.azure.plan import (
    Alert,
    EncryptionKey,
    FunctionApp,
    Payloads,
    Plan,
    Queue,
    Refused,
    Timer,
)
from cloudq_deploy.requirements import (
    extras_of,
    merged,
    payload_place,
    queue_names,
    reads,
    service_keys,
    tasks_of,
    timeout_of,
)

_LOCKS = (5, 300)
_MOST_DELIVERIES = 2000
_TABLE = "cloudq"
_RESERVED = (
    *("CLOUDQ_BROKER", "CLOUDQ_BACKEND", "CLOUDQ_PAYLOAD_STORE"),
    "CLOUDQ_INVOCATION_TIMEOUT",
)
_UTC = frozenset({"UTC", "Etc/UTC"})
_NAMING = ("prefix", "tier")
# Options of a schedule's call that a timer can pass on.
_PASSED_ON = frozenset({"queue"})


def plan_of(app: CloudQ, entry: str, options: AzureOptions) -> Plan:
    """Plan a loaded app. Raises `ConfigurationError` for what Azure cannot do."""
    stack = options.stack or app.name
    location = limits.check_place(options.region)
    address = parse(app.conf.broker)
    url_options = _url_options(address, f"{stack}-")
    namespace = options.namespace or _named(address) or f"{stack}-queues"
    names = queue_names(app)
    hints = _hints(app, options, names)
    function_app = _function_app(app, options, f"{stack}-tasks", hints)
    prefix = url_options.get("prefix", "")
    queues = [_queue(app, name, prefix, hints[name].provisioned or 0) for name in names]
    found = list(_timers(app)) if options.schedules == "cloud" else []
    account, table = _store(app, options, stack)
    plan = Plan(
        app=app.name,
        stack=stack,
        location=location,
        entry=entry,
        resource_group=options.resource_group or stack,
        namespace=namespace,
        premium=url_options.get("tier") == "premium",
        queues=tuple(queues),
        function_app=function_app,
        timers=tuple(each for each in found if isinstance(each, Timer)),
        refused=tuple(each for each in found if isinstance(each, Refused)),
        account=account,
        replication=options.replication,
        table=table,
        identity=f"{stack}-tasks",
        alerts=tuple(_alerts(queues)) if options.alarms else (),
        log_retention=options.log_retention,
        action_group=options.action_group,
        tags={**options.tags, "cloudq-app": app.name, "cloudq-stack": stack},
        broker=f"servicebus://{namespace}" + (f"?{urlencode(url_options)}" if url_options else ""),
        backend=f"aztables://{account}/{table}" if table else "none",
        payloads=_payloads(app, account),
        encryption_keys=tuple(_encryption_keys(app, options, stack)),
        extras=extras_of(app),
    )
    limits.check(plan)
    return plan


def _hints(app: CloudQ, options: AzureOptions, names: Sequence[str]) -> dict[str, FunctionHints]:
    """Merge the hints of the tasks, by queue."""
    tasks = tasks_of(app)
    hints: dict[str, FunctionHints] = {}
    for name in names:
        own = [task for task in tasks if reads(app, task, [name])]
        hints[name] = merged(own, options.ignore)
    for name, each in hints.items():
        _refuse_hints(each, f"queue {name}")
    return hints


def _named(address: Address) -> str:
    """The namespace in the app's own URL; empty for an emulator."""
    if address.scheme != "servicebus" or address.options.get("emulator"):
        return ""
    return address.host.partition(".")[0]


def _url_options(address: Address, prefix: str) -> dict[str, str]:
    if address.scheme != "servicebus":
        return {"prefix": prefix}
    return {name: value for name, value in address.options.items() if name in _NAMING and value}


def _function_app(
    app: CloudQ, options: AzureOptions, name: str, hints: Mapping[str, FunctionHints]
) -> FunctionApp:
    name = options.function_app or name
    stated = max((each.timeout for each in hints.values() if each.timeout), default=None)
    timeout = timeout_of(app, tasks_of(app), stated or options.timeout)
    memory = max([options.memory, *(each.memory for each in hints.values() if each.memory)])
    return FunctionApp(
        name=name,
        python=options.python,
        memory=limits.size_of(memory, f"function app {name}"),
        timeout=timeout,
        concurrency=options.concurrency,
        sessions=options.sessions,
        max_instances=options.max_instances,
        env={
            **_environment(options, hints),
            "CLOUDQ_MAX_DEPTH": str(app.conf.max_depth),
            "CLOUDQ_INVOCATION_TIMEOUT": str(timeout),
        },
        max_depth=app.conf.max_depth,
    )


def _environment(options: AzureOptions, hints: Mapping[str, FunctionHints]) -> dict[str, str]:
    """Merge the variables of the options and of all queues, which share one function app."""
    found: dict[str, tuple[str, str]] = {key: (value, "all") for key, value in options.env.items()}
    for queue, each in hints.items():
        for key, value in each.env.items():
            before = found.get(key)
            if before is not None and before[1] != "all" and before[0] != value:
                raise ConfigurationError(
                    f"env {key} is {before[0]!r} for {before[1]} and {value!r} for {queue}, and "
                    "one function app runs both: give both the same value"
                )
            found[key] = value, queue
    taken = [variable for variable in found if variable in _RESERVED]
    if taken:
        raise ConfigurationError(f"env: {taken[0]} is set by the deployment: leave it out")
    return {key: value for key, (value, _) in found.items()}


def _refuse_hints(hints: FunctionHints, of: str) -> None:
    for name in ("max_concurrency", "reserved_concurrency"):
        if getattr(hints, name) is not None:
            raise ConfigurationError(
                f"{of}: {name} is {getattr(hints, name)}, and Azure can limit only the instances "
                "of "
                "a whole function app: use the task option concurrency, or name it in ignore of "
                "[tool.cloudq.deploy.azure]"
            )
    if hints.batch_window or (hints.batch_size or 1) > 1:
        raise ConfigurationError(
            f"{of}: batch_size and batch_window: the trigger passes one message at a time, since "
            "the host cannot renew the locks of a batch: leave them out, or name them in ignore"
        )


def _queue(app: CloudQ, name: str, prefix: str, always_ready: int) -> Queue:
    fifo = is_ordered(name)
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


def _store(app: CloudQ, options: AzureOptions, stack: str) -> tuple[str, str | None]:
    """The storage account, which the host always needs, and the table for results."""
    own = options.account or f"{re.sub(r'[^a-z0-9]', '', stack.lower())}store"
    url = app.conf.backend_url
    if url is None:
        return own, None
    address = parse(url)
    if address.scheme != "aztables" or address.options.get("endpoint"):
        return own, _TABLE
    if options.account and address.host != options.account:
        raise ConfigurationError(
            f"the backend {url} is in the account {address.host}, and account in "
            f"[tool.cloudq.deploy.azure] is {options.account}: leave one of them out"
        )
    return address.host or own, address.path or _TABLE


def _payloads(app: CloudQ, account: str) -> Payloads | None:
    """The place of large payloads, if the app's own is in Blob storage."""
    found = payload_place(app, "azblob")
    if found is None:
        return None
    address, path, days = found
    if not address.options.get("endpoint") and address.host != account:
        raise ConfigurationError(
            f"payload_store {address.url} is in the account {address.host}, and the stack's is "
            f"{account}: name one in both, or account in [tool.cloudq.deploy.azure]"
        )
    container, _, prefix = path.partition("/")
    return Payloads(container=container, prefix=prefix, days=days)


def _encryption_keys(app: CloudQ, options: AzureOptions, stack: str) -> Iterator[EncryptionKey]:
    """Yield the keys in vaults, but in managed HSMs, which have rights of their own."""
    group = options.key_vault_group or options.resource_group or stack
    for address in service_keys(app, "azkeyvault"):
        vault, _, domain = address.host.partition(".")
        if not domain.startswith("managedhsm."):
            yield EncryptionKey(vault=vault, group=group, name=address.path.strip("/"))


def _timers(app: CloudQ) -> Iterator[Timer | Refused]:
    for name, entry in app.schedules.declared().items():
        if not entry.enabled:
            continue
        queue = entry.options.get("queue")
        try:
            expressions = cloud_cron.ncrontab(entry)
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
        raise _refusal(entry, f"timers run in UTC on Linux, and this one is in {entry.timezone}")
    if entry.jitter or entry.start or entry.end or entry.expires is not None:
        raise _refusal(entry, "timers have no jitter, start, end and expires")
    others = entry.options.keys() - _PASSED_ON
    if others:
        raise _refusal(entry, f"timers pass on no option but queue, and this one has {min(others)}")


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
