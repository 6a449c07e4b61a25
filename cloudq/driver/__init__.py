"""The protocols that an adapter implements, and the plain values that cross them."""

from cloudq.driver.adapters import Adapter
from cloudq.driver.admin import (
    Peeked,
    Purged,
    QueueAdmin,
    QueueStats,
    StoreAdmin,
    Sweeping,
)
from cloudq.driver.names import fitting
from cloudq.driver.queues import (
    FOREVER,
    ORDERED_SUFFIX,
    BrokerDriver,
    Delivery,
    Limits,
    Outgoing,
    PlatformDeadLetters,
    Scheduled,
    Scheduling,
    VirtualTime,
    is_ordered,
    suffixed,
)
from cloudq.driver.schedulers import (
    OneTimeEntry,
    OneTimeScheduler,
)
from cloudq.driver.store import (
    BackendDriver,
    Change,
    Check,
    ConditionFailed,
    Item,
    Key,
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
    "Delivery",
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
    "StoreAdmin",
    "StoreLimits",
    "Sweeping",
    "VirtualTime",
    "Value",
    "Watch",
    "Watcher",
    "fitting",
    "is_ordered",
    "suffixed",
]
