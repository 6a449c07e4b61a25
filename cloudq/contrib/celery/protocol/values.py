"""Values and signatures between Celery's JSON and ours."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from cloudq.errors import CloudQError, DecodeError, EncodeError
from cloudq.messages.values import MAX_DEPTH, from_wire, to_wire

Wire = dict[str, Any]

# kombu writes what JSON cannot say as {"__type__": .., "__value__": ..}.
_DECODERS: Mapping[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda fields: UUID(hex=fields["hex"]),
    "bytes": lambda text: text.encode(),
    "base64": lambda text: base64.b64decode(text, validate=True),
}
_ENCODERS: Mapping[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    UUID: ("uuid", lambda value: {"hex": value.hex}),
    bytes: ("base64", lambda value: base64.b64encode(value).decode()),
}
_PLAIN = (str, int, float, bool, type(None))
# What a signature's options mean here too; the others are about Celery's own exchanges and joins.
_OPTIONS = (
    *("queue", "countdown", "expires", "ignore_result", "time_limit", "soft_time_limit"),
    "headers",
)


def ours(value: Any) -> Any:
    """A value of Celery's JSON as a wire value. Raises `DecodeError`."""
    try:
        return to_wire(_python(value, 0))
    except DecodeError:
        raise
    except (CloudQError, ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise DecodeError(f"undecodable Celery value: {error}") from error


def _python(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise DecodeError(f"arguments nest deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_python(item, depth + 1) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if fields.keys() == {"__type__", "__value__"}:
        decode = _DECODERS.get(fields["__type__"])
        if decode is None:
            raise DecodeError(f"undecodable Celery value: of type {fields['__type__']!r}")
        return decode(fields["__value__"])
    return {key: _python(item, depth + 1) for key, item in fields.items()}


def theirs(value: Any) -> Any:
    """A wire value in Celery's JSON. Raises `EncodeError` for what that cannot say."""
    return _marked(from_wire(value))


def _marked(value: object) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_marked(item) for item in cast("list[object]", value)]
    if kind is dict:
        fields = cast("dict[object, object]", value)
        if all(type(key) is str for key in fields):
            return {key: _marked(item) for key, item in fields.items()}
    if kind in _ENCODERS:
        name, encode = _ENCODERS[kind]
        return {"__type__": name, "__value__": encode(value)}
    raise EncodeError(f"a {kind.__qualname__} cannot be sent to Celery: pass plain values")


# ---- signatures


def our_node(made: Any) -> Wire:
    """A signature of Celery's as one of `canvas.nodes.to_dict`. Raises `DecodeError`."""
    match made:
        case {"task": "celery.group", "kwargs": {"tasks": [*members]}}:
            node: Wire = {"group": [our_node(member) for member in members]}
        case {"task": "celery.chain", "kwargs": {"tasks": [*steps]}}:
            node = {"chain": [our_node(step) for step in steps]}
        case {"task": "celery.chord", "kwargs": {"header": header, "body": body}}:
            members = header
            if isinstance(header, dict):
                members = cast("Wire", header).get("kwargs", {}).get("tasks")
            if not isinstance(members, list):
                raise DecodeError("undecodable: a Celery chord without a list for its header")
            made_of = cast("list[Any]", members)
            node = {"chord": [our_node(each) for each in made_of], "body": our_node(body)}
        case {
            "task": "celery.map" | "celery.starmap" as name,
            "kwargs": {"task": task, "it": items},
        }:
            node = {"task": name.replace("celery", "cloudq"), "args": mapped(task, items)}
        case {"task": str(task)} if not task.startswith("celery."):
            kwargs = cast("Wire", made.get("kwargs") or {})
            node = {"task": task, "args": [ours(arg) for arg in made.get("args") or ()]}
            node["kwargs"] = {key: ours(arg) for key, arg in kwargs.items()}
        case {"task": task}:
            raise DecodeError(f"undecodable: a Celery signature of {task!r} has no like here")
        case _:
            raise DecodeError(f"undecodable: {str(made)[:100]!r} is no Celery signature")
    return node | _around(made)


def mapped(task: Any, items: Any) -> list[Any]:
    """The arguments of our `map` and `starmap` from those of Celery's."""
    name = cast("Wire", task).get("task") if isinstance(task, dict) else None
    return [name, ours(items)]


def _around(made: Wire) -> Wire:
    """What a signature says besides what it calls."""
    given: Wire = made.get("options") or {}
    around: Wire = {"immutable": True} if made.get("immutable") else {}
    if given.get("task_id"):
        around["id"] = given["task_id"]
    options = {name: given[name] for name in _OPTIONS if given.get(name) is not None}
    if "queue" not in options and given.get("routing_key"):
        options["queue"] = given["routing_key"]
    for name in ("eta", "expires"):
        if isinstance(given.get(name), str):
            options[name] = aware(given[name])
    if options:
        around["options"] = {name: to_wire(_option(name, of)) for name, of in options.items()}
    for name in ("link", "link_error"):
        nodes: Any = given.get(name) or []
        listed = cast("list[Any]", nodes) if isinstance(nodes, list) else [nodes]
        if listed:
            around[name] = [our_node(node) for node in listed]
    return around


def _option(name: str, value: Any) -> Any:
    if name == "headers":
        headers = cast("Wire", value if isinstance(value, dict) else {})
        return {key: text for key, text in headers.items() if isinstance(text, str)}
    return value


def aware(text: str) -> datetime:
    """A time of Celery's, which is UTC where it names no zone. Raises `DecodeError`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise DecodeError(f"undecodable: {text[:50]!r} is no time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def their_node(made: Wire) -> Wire:
    """A signature of `canvas.nodes.to_dict` as one of Celery's. Raises `EncodeError`."""
    options: Wire = {}
    for name, value in made.get("options", {}).items():
        plain = from_wire(value)
        options[name] = plain.isoformat() if isinstance(plain, datetime) else plain
    if made.get("id"):
        options["task_id"] = made["id"]
    for name in ("link", "link_error"):
        if made.get(name):
            options[name] = [their_node(node) for node in made[name]]
    kind, kwargs, args = None, {}, []
    if "task" in made:
        task = made["task"]
        if task.startswith("cloudq."):
            raise EncodeError(f"{task} cannot be sent to Celery, which has no such task")
        args = [theirs(arg) for arg in made.get("args", ())]
        kwargs = {key: theirs(arg) for key, arg in made.get("kwargs", {}).items()}
    elif "chain" in made:
        kind, kwargs = "chain", {"tasks": [their_node(step) for step in made["chain"]]}
        task = "celery.chain"
    elif "group" in made:
        kind, kwargs = "group", {"tasks": [their_node(member) for member in made["group"]]}
        task = "celery.group"
    else:
        header = {"group": made["chord"]}
        kind, task = "chord", "celery.chord"
        body = their_node(made["body"])
        kwargs = {"kwargs": {}, "header": their_node(header), "body": body}
    return {
        "task": task,
        "args": args,
        "kwargs": kwargs,
        "options": options,
        "subtask_type": kind,
        "immutable": bool(made.get("immutable")),
    }
