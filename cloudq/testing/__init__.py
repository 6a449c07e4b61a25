"""The contracts that every driver passes, as pytest base classes for adapters to subclass."""

import pytest

# Plain asserts in these classes should explain themselves as those in a test file do.
pytest.register_assert_rewrite(
    "cloudq.testing.backend_contract",
    "cloudq.testing.broker_contract",
    "cloudq.testing.update_contract",
    "cloudq.testing.ordering_contract",
    "cloudq.testing.queue_admin_contract",
    "cloudq.testing.scheduling_contract",
    "cloudq.testing.waiting",
)

from cloudq.testing.backend_contract import BackendContract  # noqa: E402
from cloudq.testing.broker_contract import BrokerContract  # noqa: E402
from cloudq.testing.drain import drain  # noqa: E402
from cloudq.testing.ordering_contract import OrderingContract  # noqa: E402
from cloudq.testing.queue_admin_contract import AdminDriver, QueueAdminContract  # noqa: E402
from cloudq.testing.scheduling_contract import (  # noqa: E402
    SchedulingContract,
    SchedulingDriver,
)
from cloudq.testing.update_contract import UpdateContract  # noqa: E402
from cloudq.testing.waiting import collect, eventually, outgoing  # noqa: E402

__all__ = [
    "AdminDriver",
    "BackendContract",
    "BrokerContract",
    "UpdateContract",
    "OrderingContract",
    "QueueAdminContract",
    "SchedulingContract",
    "SchedulingDriver",
    "collect",
    "drain",
    "eventually",
    "outgoing",
]
