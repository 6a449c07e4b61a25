"""What every function platform needs: a deadline, messages it has leased itself, single calls.

An adapter makes `Delivery`s or a `DirectCall` out of its platform's event, runs them in an
`Invocation`, and answers the platform in its own way.
"""

from cloudq.invocation.calls import DirectCall, firing_id, once, queue_of, run_call
from cloudq.invocation.deadline import NO_TIME, Deadline, released
from cloudq.invocation.messages import KEPT, Invocation, NotSettled

__all__ = [
    "KEPT",
    "NO_TIME",
    "Deadline",
    "DirectCall",
    "Invocation",
    "NotSettled",
    "firing_id",
    "once",
    "queue_of",
    "released",
    "run_call",
]
