"""Reads workflow nodes from JSON values, as `Node.to_dict` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.errors import InvalidArguments
from cloudq.messages.values import from_wire
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.signature import Node, Signature, chain, chord, group
from cloudq.tasks.stored_steps import StoredSteps
from cloudq.tasks.task_app import TaskApp


def from_dict(made: Mapping[str, Any], app: TaskApp | None = None) -> Node[Any]:
    """Read a node. Raises `InvalidArguments` for values that describe none."""
    node = _kind(made, app)
    node.id = made.get("id")
    node.options = {
        key: from_wire(value)
        for key, value in made.get("options", {}).items()
        # Those of a newer release do nothing; those of a program are checked when it is started.
        if app is not None or key in CallOptions.__annotations__
    }
    node.links = [from_dict(callback, app) for callback in made.get("link", ())]
    node.link_errors = [from_dict(errback, app) for errback in made.get("link_error", ())]
    return node


def _kind(made: Mapping[str, Any], app: TaskApp | None) -> Node[Any]:
    match made:
        case {"task": str(task)}:
            return Signature(
                task,
                [from_wire(arg) for arg in made.get("args", ())],
                {key: from_wire(value) for key, value in made.get("kwargs", {}).items()},
                immutable=bool(made.get("immutable")),
                app=app,
            )
        case {"chain": [*steps]}:
            return chain([from_dict(step, app) for step in steps])
        case {"group": [*members]}:
            return group([from_dict(member, app) for member in members])
        case {"chord": [*members], "body": body}:
            return chord([from_dict(member, app) for member in members], from_dict(body, app))
        case {"more": str(more), "at": int(at)}:
            return StoredSteps(more, at)
        case _:
            raise InvalidArguments(
                f"{dict(made)!r} is no signature: give the values that Node.to_dict() returns"
            )
