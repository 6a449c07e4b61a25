"""The protocols that an adapter implements, and the plain values that cross them."""

from importlib import import_module
from typing import TYPE_CHECKING

from cloudq.driver.adapters import Adapter
from cloudq.driver.names import fitting
from cloudq.driver.queues import (
    FOREVER,
    ORDERED_SUFFIX,
    BrokerDriver,
    DeadLetterCopies,
    Delivery,
    EndsReceives,
    Limits,
    Outgoing,
    PlatformDeadLetters,
    Scheduled,
    Scheduling,
    StoreBeside,
    VirtualTime,
    is_ordered,
    suffixed,
)
from cloudq.driver.store import (
    BackendDriver,
    Change,
    Check,
    ConditionFailed,
    Item,
    Key,
    ManyUpdates,
    Op,
    Page,
    StoreLimits,
    Watch,
    Watcher,
)
from cloudq.driver.values import (
    Address,
    Code,
    Failure,
    Value,
)

if TYPE_CHECKING:
    from cloudq.driver.admin import (
        Peeked,
        Purged,
        QueueAdmin,
        QueueStats,
        StoreAdmin,
        Sweeping,
    )
    from cloudq.driver.schedulers import (
        OneTimeEntry,
        OneTimeScheduler,
    )

__all__ = [
    "FOREVER",
    "ORDERED_SUFFIX",
    "Adapter",
    "Address",
    "BackendDriver",
    "BrokerDriver",
    "PlatformDeadLetters",
    "Change",
    "Check",
    "Code",
    "ConditionFailed",
    "DeadLetterCopies",
    "Delivery",
    "EndsReceives",
    "Failure",
    "Item",
    "Key",
    "Limits",
    "OneTimeEntry",
    "OneTimeScheduler",
    "Op",
    "Outgoing",
    "Page",
    "Peeked",
    "Purged",
    "QueueAdmin",
    "QueueStats",
    "Scheduled",
    "Scheduling",
    "StoreBeside",
    "StoreAdmin",
    "StoreLimits",
    "Sweeping",
    "VirtualTime",
    "Value",
    "ManyUpdates",
    "Watch",
    "Watcher",
    "fitting",
    "is_ordered",
    "suffixed",
]

# Loaded when they are first used: an app that sends and runs tasks needs none of them.
_HOMES = {
    "OneTimeEntry": "cloudq.driver.schedulers",
    "OneTimeScheduler": "cloudq.driver.schedulers",
    "Peeked": "cloudq.driver.admin",
    "Purged": "cloudq.driver.admin",
    "QueueAdmin": "cloudq.driver.admin",
    "QueueStats": "cloudq.driver.admin",
    "StoreAdmin": "cloudq.driver.admin",
    "Sweeping": "cloudq.driver.admin",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cloudq.driver' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
