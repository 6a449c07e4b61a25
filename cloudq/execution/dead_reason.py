"""Says why a message is dead-lettered: in the open, where services keep a reason."""

from __future__ import annotations

from cloudq.broker.broker import Broker
from cloudq.execution.settlement import Settlement
from cloudq.results.record import FAILED, State

# Errors whose text is ours, and has nothing of a call's arguments.
_OURS = frozenset(
    f"cloudq.errors.{name}"
    for name in ("DecodeError", "TimeLimitExceeded", "UnknownTask", "WorkerLost")
)


def dead_reason(settlement: Settlement, broker: Broker) -> str:
    """Return the reason of a dead letter; where messages are encrypted, without a task's words.

    What an exception says may quote what is encrypted. It is in the record, which is sealed.
    """
    reason, record = settlement.reason, settlement.record
    if broker.codec.encryption is None or settlement.state not in FAILED:
        return reason
    if settlement.state is State.REJECTED:
        name = "rejected"
    elif record is None:  # its result is ignored
        name = reason.partition(":")[0]
    else:
        name = record.error_type or "failed"
    if name in _OURS:
        return reason
    return f"{name}: its text is encrypted, in the record of the task"
