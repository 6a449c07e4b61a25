"""Checks a plan against the limits of Azure, before anything is made.

Sources: the naming rules of Azure Resource Manager, the limits pages of Service Bus and of
Functions on Flex Consumption.
"""

from __future__ import annotations

import re

from cloudq.errors import ConfigurationError
from cloudq_deploy.azure.plan import Plan
from cloudq_deploy.naming import Naming

_NAMES = Naming(
    "Azure",
    {
        "resource group": (90, r"[A-Za-z0-9._()-]*[A-Za-z0-9_()-]"),
        "namespace": (50, r"[A-Za-z](?!.*-(bus|sb|mgmt)?$)[A-Za-z0-9-]{5,}"),
        "queue": (260, r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"),
        "function app": (60, r"[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]"),
        "function": (127, r"[A-Za-z][A-Za-z0-9_-]*"),
        "storage account": (24, r"[a-z0-9]{3,}"),
        "table": (63, r"[A-Za-z][A-Za-z0-9]{2,}"),
        "container": (63, r"[a-z0-9](?!.*--)[a-z0-9-]+[a-z0-9]"),
        "identity": (128, r"[A-Za-z0-9][A-Za-z0-9_-]{2,}"),
    },
)
SIZES = (512, 2048, 4096)
"""Memory of an instance of Flex Consumption, in MB."""
# A function has 60 minutes to end before its instance is removed.
_LONGEST = 3600
_INSTANCES = (40, 1000)
_RESERVED = re.compile(r"AzureWebJobs.*|FUNCTIONS_.*|WEBSITE_.*|APPLICATIONINSIGHTS_.*")


def check_place(location: str | None) -> str:
    """Check the location. Raises `ConfigurationError` where it is missing."""
    if not location:
        raise ConfigurationError(
            "no location: use --region westeurope, or set region in [tool.cloudq.deploy.azure]"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]+", location):
        raise ConfigurationError(
            f"--region {location!r} is not a location: write one such as westeurope"
        )
    return location


def size_of(memory: int, of: str) -> int:
    """Find the smallest instance with so much memory. Raises `ConfigurationError`."""
    for size in SIZES:
        if memory <= size:
            return size
    raise ConfigurationError(
        f"{of}: memory is {memory} MB, and instances have {', '.join(map(str, SIZES))}"
    )


def check(plan: Plan) -> None:
    """Raise `ConfigurationError` for the first part of the plan that Azure would refuse."""
    table = "[tool.cloudq.deploy.azure]"
    _NAMES.check("resource group", [plan.resource_group], f"resource_group in {table}")
    _NAMES.check("namespace", [plan.namespace], f"namespace in {table}")
    _NAMES.check("storage account", [plan.account], f"account in {table}")
    _NAMES.check("function app", [plan.function_app.name], f"function_app in {table}")
    _NAMES.check("identity", [plan.identity], "--stack")
    if plan.table is not None:
        _NAMES.check("table", [plan.table], "the table in the backend's URL")
    if plan.payloads is not None:
        _NAMES.check("container", [plan.payloads.container], "payload_store")
    seen: set[str] = set()
    for queue in plan.queues:
        _NAMES.check("queue", [queue.full_name], "the queue, or prefix= of the broker's URL")
        _check_function(queue.function, "the queue", seen)
    for timer in plan.timers:
        _check_function(f"cloudq_{timer.name}", "the schedule", seen)
    function_app = plan.function_app
    of = f"function app {function_app.name}"
    if function_app.timeout > _LONGEST:
        raise ConfigurationError(
            f"{of}: timeout is {function_app.timeout} s, and an instance that is removed stops its "
            f"functions after {_LONGEST} s: split the task, or run its queue with `cloudq worker`"
        )
    if not _INSTANCES[0] <= function_app.max_instances <= _INSTANCES[1]:
        raise ConfigurationError(
            f"{of}: max_instances is {function_app.max_instances}, and Flex Consumption allows "
            f"{_INSTANCES[0]} to {_INSTANCES[1]}"
        )
    for name in function_app.env:
        if _RESERVED.fullmatch(name):
            raise ConfigurationError(f"{of}: env has {name}, a name that Functions reserves")


def _check_function(name: str, where: str, seen: set[str]) -> None:
    _NAMES.check("function", [name], where)
    if name.lower() in seen:
        raise ConfigurationError(
            f"two functions would be named {name}: rename a queue or a schedule"
        )
    seen.add(name.lower())
