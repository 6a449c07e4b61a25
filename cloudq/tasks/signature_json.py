"""Reads workflow nodes from JSON values, as `Node.to_dict` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.errors import InvalidArguments
from cloudq.messages.values import from_wire
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.signature import Node, Signature, chain, chord, group, is_node
from cloudq.tasks.stored_steps import StoredSteps
from cloudq.tasks.task_app import TaskApp


def from_dict(made: Mapping[str, Any], app: TaskApp | None = None) -> Node[Any]:
    """Read a node, from Celery's form of it too.

    Raises `InvalidArguments` for values that describe none.
    """
    if is_node(made):
        return made.clone()
    if "subtask_type" in made:
        made = _from_celery(made)
    node = _kind(made, app)
    node.id = made.get("id")
    node.options = {
        key: from_wire(value)
        for key, value in made.get("options", {}).items()
        # Those of a newer release do nothing; those of a program are checked when it is started.
        if app is not None or key in CallOptions.__annotations__
    }
    if made.get("immutable") and not node.is_call:
        node.set_immutable(True)
    node.links = [from_dict(callback, app) for callback in made.get("link", ())]
    node.link_errors = [from_dict(errback, app) for errback in made.get("link_error", ())]
    return node


def _from_celery(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dictionary of Celery's describes, as `Node.to_dict` writes it."""
    options: dict[str, Any] = dict(made.get("options") or {})
    given: Any = made.get("kwargs") or {}
    read: dict[str, Any] = {"id": options.pop("task_id", None)}
    read |= {name: options.pop(name, None) or () for name in ("link", "link_error")}
    read |= {"options": options, "immutable": bool(made.get("immutable"))}
    match made["subtask_type"]:
        case "chain" | "group" as kind:
            return {**read, kind: list(given.get("tasks") or ())}
        case "chord":
            header: Any = given.get("header") or ()
            members: Any = header["kwargs"]["tasks"] if "kwargs" in header else header
            return {**read, "chord": list(members), "body": given.get("body")}
        case _:
            parts = ("task", "args", "kwargs", "immutable")
            own = {name: made[name] for name in parts if made.get(name) is not None}
            return read | own


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
