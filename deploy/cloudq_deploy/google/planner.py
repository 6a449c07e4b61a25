"""Plans an app for Google Cloud: topics, functions, store, jobs, alerts, within its limits."""

# grpc is not typed at all.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

import grpc

from cloudq.app import CloudQ
from cloudq.broker.deliveries import queue_deliveries
from cloudq.driver import Address, is_ordered
from cloudq.driver.loader import parse
from cloudq.driver.schedulers import Job
from cloudq.errors import ConfigurationError
from cloudq.schedules.cloud_sync import Scheduler
from cloudq.tasks.function_hints import FunctionHints
from cloudq_deploy.google import limits
from cloudq_deploy.google.options import GoogleOptions
from cloudq_deploy.google.plan import Alert, Function, Payloads, Plan, Queue, Refused, Store
from cloudq_deploy.requirements import (
    AnyTask,
    declared_schedules,
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
from cloudq_gcp.cloud_scheduler import CloudScheduler
from cloudq_gcp.kms_names import key_name
from cloudq_gcp.queues import Queues

_DEADLINES = (10, 600)
_ATTEMPTS = (5, 100)
_COLLECTION = "cloudq"
# Options of the app's own URL that name resources; the others tell a machine how to connect.
_NAMING = ("prefix", "subscription", "dead", "exactly_once", "tasks", "account")
_RESERVED = (
    *("CLOUDQ_BROKER", "CLOUDQ_BACKEND", "CLOUDQ_PAYLOAD_STORE"),
    "CLOUDQ_INVOCATION_TIMEOUT",
)


def plan_of(app: CloudQ, entry: str, options: GoogleOptions) -> Plan:
    """Plan a loaded app. Raises `ConfigurationError` for what Google cannot do."""
    stack = options.stack or app.name
    address = parse(app.conf.broker)
    project, location = _place(options, address)
    url_options = _url_options(address, f"{stack}-")
    _refuse_exactly_once(url_options)
    named = {name: url_options[name] for name in ("subscription", "dead") if name in url_options}
    places = Queues(project=project, prefix=url_options.get("prefix", ""), **named)
    names = queue_names(app)
    _check_named("filters", options.filters, names)
    functions = _functions(app, options, stack, names)
    _check_named("urls", options.urls, [function.name for function in functions])
    store = _store(app, project, stack)
    database = f"?{urlencode({'database': store.database})}" if store else ""
    queues = [_queue(app, options, places, name, functions) for name in names]
    jobs, refused = (
        ((), ()) if options.schedules == "beat" else _jobs(app, stack, places, project, location)
    )
    plan = Plan(
        app=app.name,
        stack=stack,
        project=project,
        location=location,
        entry=entry,
        queues=tuple(queues),
        functions=tuple(functions),
        store=store,
        jobs=tuple(jobs),
        refused=tuple(refused),
        alerts=tuple(_alerts(options, queues, functions)) if options.alarms else (),
        runtime_account=f"{stack}-tasks",
        push_account=f"{stack}-push",
        bucket=f"{project.replace(':', '-')}-{stack}-functions",
        log_retention=options.log_retention,
        alarm_channels=options.alarm_channels,
        build_account=options.build_account,
        labels={**options.labels, **ownership(app.name, stack)},
        delays=url_options.get("tasks", ""),
        broker=f"pubsub://{project}" + (f"?{urlencode(url_options)}" if url_options else ""),
        backend=f"firestore://{project}/{store.collection}{database}" if store else "none",
        payloads=_payloads(app),
        encryption_keys=tuple(dict.fromkeys(map(key_name, service_keys(app, "gcpkms")))),
        extras=extras_of(app),
    )
    limits.check(plan)
    return plan


def _functions(
    app: CloudQ, options: GoogleOptions, stack: str, names: Sequence[str]
) -> list[Function]:
    tasks = tasks_of(app)
    groups = [names] if options.functions == "one" else [[name] for name in names]
    functions: list[Function] = []
    for group in groups:
        own = [task for task in tasks if reads(app, task, group)]
        name = stack if options.functions == "one" else f"{stack}-{plain(group[0])}"
        functions.append(_function(app, options, own, name=name.replace("_", "-"), queues=group))
    return functions


def _refuse_exactly_once(url_options: Mapping[str, str]) -> None:
    if url_options.get("exactly_once") == "true":
        raise ConfigurationError(
            "exactly_once=true in the broker's URL: Pub/Sub has that for pulling only, and it "
            "pushes to functions: leave the option out, or run workers"
        )


def ownership(app: str, stack: str) -> dict[str, str]:
    """The labels that mark a stack's resources."""
    return {"cloudq-app": _label(app), "cloudq-stack": _label(stack)}


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _place(options: GoogleOptions, address: Address) -> tuple[str, str]:
    named = address.host if address.scheme == "pubsub" else ""
    project = options.project or named or os.environ.get("GOOGLE_CLOUD_PROJECT")
    return limits.check_place(project, options.region or os.environ.get("GOOGLE_CLOUD_REGION"))


def _url_options(address: Address, prefix: str) -> dict[str, str]:
    if address.scheme != "pubsub":
        return {"prefix": prefix}
    return {name: value for name, value in address.options.items() if name in _NAMING and value}


def _check_named(option: str, given: Mapping[str, str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"[tool.cloudq.deploy.google] {option}: there is no {name!r}; the plan has "
                f"{', '.join(known)}"
            )


def _function(
    app: CloudQ,
    options: GoogleOptions,
    tasks: Sequence[AnyTask],
    *,
    name: str,
    queues: Sequence[str],
) -> Function:
    hints = merged(tasks, options.ignore)
    _refuse_hints(hints, f"function {name}")
    timeout = timeout_of(app, tasks, hints.timeout or options.timeout)
    taken = [variable for variable in (*options.env, *hints.env) if variable in _RESERVED]
    if taken:
        raise ConfigurationError(f"env: {taken[0]} is set by the deployment: leave it out")
    concurrency = options.concurrency
    most = hints.max_concurrency
    instances = options.max_instances if most is None else max(1, most // concurrency)
    return Function(
        name=name,
        queues=tuple(queues),
        tasks=tuple(task.name for task in tasks),
        runtime=options.runtime.replace(".", ""),
        memory=hints.memory or options.memory,
        cpu=options.cpu or ("1" if concurrency > 1 else None),
        timeout=timeout,
        concurrency=concurrency if most is None else min(concurrency, most),
        min_instances=hints.provisioned or 0,
        max_instances=instances,
        env={
            **options.env,
            **hints.env,
            "CLOUDQ_MAX_DEPTH": str(app.conf.max_depth),
            "CLOUDQ_INVOCATION_TIMEOUT": str(timeout),
        },
        max_depth=app.conf.max_depth,
    )


def _refuse_hints(hints: FunctionHints, of: str) -> None:
    if hints.reserved_concurrency is not None:
        raise ConfigurationError(
            f"{of}: reserved_concurrency is {hints.reserved_concurrency}, and Cloud Run reserves "
            "nothing: use max_concurrency, which limits the function's instances, or name it in "
            "ignore of [tool.cloudq.deploy.google]"
        )
    if hints.batch_window or (hints.batch_size or 1) > 1:
        raise ConfigurationError(
            f"{of}: batch_size and batch_window: Pub/Sub pushes one message at a time: leave them "
            "out, or name them in ignore of [tool.cloudq.deploy.google]"
        )


def _queue(
    app: CloudQ,
    options: GoogleOptions,
    places: Queues,
    name: str,
    functions: Sequence[Function],
) -> Queue:
    function = next(each for each in functions if name in each.queues)
    fifo = is_ordered(name)
    dead = places.dead_queue(name)
    attempts = queue_deliveries(app.conf.max_deliveries, ordered=fifo)
    return Queue(
        name=name,
        topic=places.topic_name(name),
        subscription=_last(places.subscribed(name)),
        dead_topic=_last(dead),
        dead_subscription=_last(places.subscribed(dead)),
        function=function.name,
        fifo=fifo,
        # The push times out after it too, so the function must answer before.
        ack_deadline=min(max(function.timeout, _DEADLINES[0]), _DEADLINES[1]),
        max_attempts=min(max(attempts, _ATTEMPTS[0]), _ATTEMPTS[1]),
        backoff=(options.min_backoff, options.max_backoff),
        filter=options.filters.get(name, ""),
        url=options.urls.get(function.name),
    )


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _store(app: CloudQ, project: str, stack: str) -> Store | None:
    url = app.conf.backend_url
    if url is None:
        return None
    address = parse(url)
    if address.scheme != "firestore":
        return Store(database=stack, collection=_COLLECTION)
    if address.host and address.host != project:
        raise ConfigurationError(
            f"the backend {url} is in the project {address.host}, and this deployment is for "
            f"{project}: leave the project out of one of them"
        )
    return Store(
        database=address.options.get("database") or "(default)",
        collection=address.path or _COLLECTION,
    )


def _payloads(app: CloudQ) -> Payloads | None:
    """The place of large payloads, if the app's own is in Cloud Storage."""
    found = payload_place(app, "gs")
    if found is None:
        return None
    address, prefix, days = found
    return Payloads(bucket=address.host, prefix=prefix, days=days)


def _jobs(
    app: CloudQ, stack: str, places: Queues, project: str, location: str
) -> tuple[list[Job], list[Refused]]:
    """Make the jobs of Cloud Scheduler, and list the schedules that it cannot run."""
    # The driver only renders jobs and sends nothing, so its channel leads nowhere.
    driver = CloudScheduler(
        grpc.insecure_channel("localhost:1"),
        "localhost:1",
        parent=f"projects/{project}/locations/{location}",
        queues=places,
        retries=5,
    )
    try:
        scheduler = Scheduler(app.schedules, driver, url="Cloud Scheduler", owner=stack)
        jobs: dict[str, Job] = {}
        refused: list[Refused] = []
        for scheduled in declared_schedules(app):
            try:
                made = scheduler.jobs([scheduled])
            except ConfigurationError as error:
                refused.append(Refused(name=scheduled.name, why=str(error)))
                continue
            twice = next((each for each in made if each in jobs), None)
            if twice is not None:
                raise ConfigurationError(
                    f"two schedules are both {twice!r} in the cloud: give one of them another name"
                )
            jobs |= made
    finally:
        driver.close()
    return list(jobs.values()), refused


def _alerts(
    options: GoogleOptions, queues: Sequence[Queue], functions: Sequence[Function]
) -> Iterable[Alert]:
    for queue in queues:
        name = queue.topic
        yield Alert(
            name=f"{name}-oldest", metric="age", of=queue.subscription, threshold=options.oldest
        )
        yield Alert(name=f"{name}-dead", metric="dead", of=queue.dead_subscription, threshold=0)
    for function in functions:
        yield Alert(name=f"{function.name}-errors", metric="errors", of=function.name, threshold=0)
