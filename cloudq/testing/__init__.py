"""For tests: a worker in the test's process, time and faults at will, and every driver's contract.

The contracts are pytest base classes for adapters to subclass, and need pytest; nothing else here
does. Each name is loaded at its first use, so that naming this package costs nothing.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudq.testing.contracts.backend import BackendContract
    from cloudq.testing.contracts.blobs import BlobsContract
    from cloudq.testing.contracts.broker import BrokerContract
    from cloudq.testing.contracts.encryption import EncryptionContract
    from cloudq.testing.contracts.keys import KeyServiceContract, KeyUseContract
    from cloudq.testing.contracts.ordering import OrderingContract
    from cloudq.testing.contracts.queue_admin import AdminDriver, QueueAdminContract
    from cloudq.testing.contracts.schedule import OneTimeContract, OneTimeDriver, ScheduleContract
    from cloudq.testing.contracts.scheduling import SchedulingContract, SchedulingDriver
    from cloudq.testing.contracts.update import UpdateContract
    from cloudq.testing.draining import drain
    from cloudq.testing.kit.beats import beat
    from cloudq.testing.kit.clock import VirtualClock
    from cloudq.testing.kit.dice import Fault
    from cloudq.testing.kit.faults import FaultPlan
    from cloudq.testing.kit.grpc_proxy import GrpcFaultProxy
    from cloudq.testing.kit.in_memory import in_memory
    from cloudq.testing.kit.proxy import Answer, FaultProxy
    from cloudq.testing.kit.wire_proxy import WireFaultProxy
    from cloudq.testing.kit.workers import Worker, run_until_idle, worker
    from cloudq.testing.waiting import collect, eventually, outgoing

__all__ = [
    "AdminDriver",
    "Answer",
    "BackendContract",
    "BlobsContract",
    "BrokerContract",
    "EncryptionContract",
    "Fault",
    "FaultPlan",
    "FaultProxy",
    "GrpcFaultProxy",
    "KeyServiceContract",
    "KeyUseContract",
    "UpdateContract",
    "OrderingContract",
    "OneTimeContract",
    "OneTimeDriver",
    "QueueAdminContract",
    "ScheduleContract",
    "SchedulingContract",
    "SchedulingDriver",
    "VirtualClock",
    "WireFaultProxy",
    "Worker",
    "beat",
    "collect",
    "drain",
    "eventually",
    "in_memory",
    "outgoing",
    "run_until_idle",
    "worker",
]

_CONTRACTS = {
    "AdminDriver": "contracts.queue_admin",
    "BackendContract": "contracts.backend",
    "BlobsContract": "contracts.blobs",
    "BrokerContract": "contracts.broker",
    "EncryptionContract": "contracts.encryption",
    "KeyServiceContract": "contracts.keys",
    "KeyUseContract": "contracts.keys",
    "OrderingContract": "contracts.ordering",
    "OneTimeContract": "contracts.schedule",
    "OneTimeDriver": "contracts.schedule",
    "QueueAdminContract": "contracts.queue_admin",
    "ScheduleContract": "contracts.schedule",
    "SchedulingContract": "contracts.scheduling",
    "SchedulingDriver": "contracts.scheduling",
    "UpdateContract": "contracts.update",
}
_HOMES = _CONTRACTS | {
    "Answer": "kit.proxy",
    "Fault": "kit.dice",
    "FaultPlan": "kit.faults",
    "FaultProxy": "kit.proxy",
    "GrpcFaultProxy": "kit.grpc_proxy",
    "VirtualClock": "kit.clock",
    "WireFaultProxy": "kit.wire_proxy",
    "beat": "kit.beats",
    "Worker": "kit.workers",
    "collect": "waiting",
    "drain": "draining",
    "eventually": "waiting",
    "in_memory": "kit.in_memory",
    "outgoing": "waiting",
    "run_until_idle": "kit.workers",
    "worker": "kit.workers",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pytest = sys.modules.get("pytest")
    if pytest is not None:
        # Plain asserts in these modules should explain themselves as those in a test file do.
        modules = [f"{__name__}.{home}" for home in (*sorted(set(_CONTRACTS.values())), "waiting")]
        fresh = [module for module in modules if module not in sys.modules]
        pytest.register_assert_rewrite(*fresh)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
