"""The states that a running task gives itself."""

from __future__ import annotations

from typing import Any

from cloudq.errors import InvalidArguments
from cloudq.messages.values import dump_value
from cloudq.results.record import TERMINAL, Record, State

_INSTEAD = {
    State.SUCCESS: "return a value",
    State.FAILURE: "raise an exception",
    State.REJECTED: "raise Reject",
    State.REVOKED: "revoke its result",
}


def own_state(task_id: str, fence: int, state: str, meta: Any) -> Record:
    """The record of a running task in a state of its own, say `"PROGRESS"`.

    Raises `InvalidArguments` for a state that ends a task, and `EncodeError` for metadata that
    is not plain data.
    """
    if not state:
        raise InvalidArguments("update_state: state is empty: name one, such as PROGRESS")
    if state in TERMINAL:
        raise InvalidArguments(
            f"update_state: {state} ends a task and is final: {_INSTEAD[State(state)]} instead"
        )
    known = state in State.__members__
    return Record(
        id=task_id,
        state=State(state) if known else State.STARTED,
        custom=None if known else state,
        meta=None if meta is None else dump_value(meta),
        fence=fence,
    )
