"""Checks a plan against the limits of Google Cloud, before anything is made.

Sources: the quotas pages of Pub/Sub, Cloud Run functions, Cloud Scheduler, Firestore, IAM.
"""

from __future__ import annotations

import re

from cloudq.errors import ConfigurationError
from cloudq_deploy.google.plan import Function, Plan, Queue
from cloudq_deploy.naming import Naming

_PUBSUB = r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
_NAMES = Naming(
    "Google",
    {
        "topic": (255, _PUBSUB),
        "subscription": (255, _PUBSUB),
        # A function is a service of Cloud Run, whose names are shorter.
        "function": (49, r"[a-z]([a-z0-9-]*[a-z0-9])?"),
        "service account": (30, r"[a-z][a-z0-9-]{4,28}[a-z0-9]"),
        "database": (63, r"\(default\)|[a-z][a-z0-9-]{2,61}[a-z0-9]"),
        "bucket": (63, r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"),
    },
)
_PROJECT = r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
_LOCATION = r"[a-z]+-[a-z]+[0-9]+"
_LABEL_KEY, _LABEL = r"[a-z][a-z0-9_-]{0,62}", r"[a-z0-9_-]{0,63}"
# "The maximum custom deadline you can specify is 600 seconds"; it is the timeout of a push.
_LONGEST = 600
_MEMORY = (128, 32_768)
_FILTER = 256
# Variables that Cloud Run functions set.
_RESERVED = frozenset(
    {
        *("CLOUD_RUN_TIMEOUT_SECONDS", "FUNCTION_SIGNATURE_TYPE", "FUNCTION_TARGET"),
        *("K_CONFIGURATION", "K_REVISION", "K_SERVICE", "LOG_EXECUTION_ID", "PORT"),
    }
)


def check_place(project: str | None, location: str | None) -> tuple[str, str]:
    """Check the project and the location. Raises `ConfigurationError` where one is missing."""
    if not project:
        raise ConfigurationError(
            "no Google project: use --project my-project, or set GOOGLE_CLOUD_PROJECT, or name it "
            "in the broker's URL (pubsub://my-project)"
        )
    if not re.fullmatch(_PROJECT, project):
        raise ConfigurationError(
            f"--project {project!r} is not the id of a Google project: write one such as my-project"
        )
    if not location:
        raise ConfigurationError(
            "no location: use --region europe-west1, or set region in [tool.cloudq.deploy.google]"
        )
    if not re.fullmatch(_LOCATION, location):
        raise ConfigurationError(
            f"--region {location!r} is not a region: write one such as europe-west1"
        )
    return project, location


def check(plan: Plan) -> None:
    """Raise `ConfigurationError` for the first part of the plan that Google would refuse."""
    queue = "the queue, or prefix= of the broker's URL"
    _NAMES.check("topic", [n for q in plan.queues for n in (q.topic, q.dead_topic)], queue)
    subscriptions = [n for q in plan.queues for n in (q.subscription, q.dead_subscription)]
    _NAMES.check("subscription", subscriptions, queue)
    _NAMES.check("function", [function.name for function in plan.functions], "--stack or the queue")
    _NAMES.check("service account", [plan.runtime_account, plan.push_account], "--stack")
    _NAMES.check("database", [plan.store.database] if plan.store else [], "--stack")
    _NAMES.check("bucket", [plan.bucket], "--stack")
    _NAMES.check("bucket", [plan.payloads.bucket] if plan.payloads else [], "payload_store")
    seen: set[str] = set()
    for function in plan.functions:
        if function.name in seen:
            raise ConfigurationError(
                f"two queues would share the function {function.name}: rename a queue, or use "
                "--functions one"
            )
        seen.add(function.name)
        _check_function(function)
    for each in plan.queues:
        _check_queue(each)
    for name, value in plan.labels.items():
        if not re.fullmatch(_LABEL_KEY, name) or not re.fullmatch(_LABEL, value):
            raise ConfigurationError(
                f"labels: {name}={value!r}: use a-z, 0-9, _ and -, 63 at most, and begin the name "
                "with a letter"
            )


def _check_function(function: Function) -> None:
    of = f"function {function.name} ({', '.join(function.tasks) or 'no tasks'})"
    if function.timeout > _LONGEST:
        raise ConfigurationError(
            f"{of}: timeout is {function.timeout} s, and a push of Pub/Sub ends after {_LONGEST} "
            "s: "
            "split the task, or run its queue with `cloudq worker`"
        )
    if not _MEMORY[0] <= function.memory <= _MEMORY[1]:
        raise ConfigurationError(
            f"{of}: memory is {function.memory} MB, and Cloud Run allows {_MEMORY[0]} to "
            f"{_MEMORY[1]}"
        )
    if function.cpu is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", function.cpu):
        raise ConfigurationError(f"{of}: cpu is {function.cpu!r}: write 1, 2, or 0.5")
    if function.concurrency > 1 and function.cpu is not None and float(function.cpu) < 1:
        raise ConfigurationError(
            f"{of}: concurrency is {function.concurrency}: more than 1 needs cpu=1 or more"
        )
    if function.min_instances > function.max_instances:
        raise ConfigurationError(
            f"{of}: provisioned is {function.min_instances}, and at most "
            f"{function.max_instances} instances run: raise max_concurrency or max_instances"
        )
    for name in function.env:
        if name in _RESERVED or name.startswith("X_GOOGLE_"):
            raise ConfigurationError(f"{of}: env has {name}, a name that Cloud Run reserves")


def _check_queue(queue: Queue) -> None:
    if len(queue.filter) > _FILTER:
        raise ConfigurationError(
            f"queue {queue.name}: its filter has {len(queue.filter)} characters, and Pub/Sub "
            "allows "
            f"{_FILTER}"
        )
    low, high = queue.backoff
    if low > high:
        raise ConfigurationError(
            f"min_backoff is {low} s, more than max_backoff ({high} s): change one of them"
        )
