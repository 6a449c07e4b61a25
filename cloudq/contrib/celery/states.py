"""The states of tasks and the sets of them, under the names of `celery.states`."""

from __future__ import annotations

from cloudq.results.record import TERMINAL, State

PENDING = State.PENDING
STARTED = State.STARTED
RETRY = State.RETRY
SUCCESS = State.SUCCESS
FAILURE = State.FAILURE
REVOKED = State.REVOKED
REJECTED = State.REJECTED
# No record here ever has these: Celery gives them to received, rejected and ignored tasks.
RECEIVED = "RECEIVED"
IGNORED = "IGNORED"

READY_STATES = frozenset[str](TERMINAL)
UNREADY_STATES = frozenset[str]({PENDING, RECEIVED, STARTED, REJECTED, RETRY}) - READY_STATES
EXCEPTION_STATES = frozenset[str]({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES = READY_STATES - {SUCCESS}
ALL_STATES = READY_STATES | UNREADY_STATES
