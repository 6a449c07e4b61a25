"""The states of tasks and the sets of them, under the names of `celery.states`."""

from __future__ import annotations

from cloudq.results.record import State

PENDING = State.PENDING
STARTED = State.STARTED
RETRY = State.RETRY
SUCCESS = State.SUCCESS
FAILURE = State.FAILURE
REVOKED = State.REVOKED
REJECTED = State.REJECTED
# No result has these: Celery gives them to received and to ignored tasks. A task that was rejected
# has FAILURE, as in Celery; REJECTED is the state of an eager one alone.
RECEIVED = "RECEIVED"
IGNORED = "IGNORED"

READY_STATES = frozenset[str]({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES = frozenset[str]({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset[str]({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES = READY_STATES - {SUCCESS}
ALL_STATES = (READY_STATES | UNREADY_STATES) - {REJECTED}

# The first of two states is the one that is shown; states that are not named stand before None.
_ORDER = (SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING)


def precedence(name: str | None) -> int:
    """Return the place of a state in the order of progress, 0 for the furthest."""
    return _ORDER.index(name if name in _ORDER else None)


class state(str):  # noqa: N801 (Celery's name)
    """A state that is compared by its progress: `state("PENDING") < state("SUCCESS")`."""

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
