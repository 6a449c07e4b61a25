"""Translates values and signatures between Celery's JSON and cloudq's."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from cloudq.errors import CloudQError, DecodeError, EncodeError
from cloudq.messages.model_classes import is_secret
from cloudq.messages.numbers import decimal_of
from cloudq.messages.values import MAX_DEPTH, from_wire, is_list, is_object, to_wire

Wire = dict[str, Any]


def _date_of(text: str) -> date:
    return datetime.fromisoformat(text).date()


def _uuid_of(fields: Mapping[str, str]) -> UUID:
    return UUID(hex=fields["hex"])


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _hex_of(value: UUID) -> dict[str, str]:
    return {"hex": value.hex}


# kombu writes values that JSON has no type for as {"__type__": .., "__value__": ..}.
_DECODERS: Mapping[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": _date_of,
    "time": time.fromisoformat,
    "decimal": decimal_of,
    "uuid": _uuid_of,
    "bytes": str.encode,
    "base64": _decoded,
}
_ENCODERS: Mapping[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    UUID: ("uuid", _hex_of),
    bytes: ("base64", _encoded),
}
_PLAIN = (str, int, float, bool, type(None))
# The options of a signature that cloudq knows; the others concern Celery's exchanges and chords.
_OPTIONS = (
    *("queue", "countdown", "expires", "ignore_result", "time_limit", "soft_time_limit"),
    "headers",
)


def ours(value: Any) -> Any:
    """Turn a value of Celery's JSON into a wire value. Raises `DecodeError`."""
    try:
        return to_wire(_python(value, 0))
    except DecodeError:
        raise
    except (CloudQError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise DecodeError(f"undecodable Celery value: {error}") from error


def _python(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise DecodeError(f"arguments nest deeper than {MAX_DEPTH} levels")
    if is_list(value):
        return [_python(item, depth + 1) for item in value]
    if not is_object(value):
        return value
    if value.keys() == {"__type__", "__value__"}:
        kind = value["__type__"]
        decode = _DECODERS.get(kind) if isinstance(kind, str) else None
        if decode is None:
            raise DecodeError(f"undecodable Celery value: of type {value['__type__']!r}")
        return decode(value["__value__"])
    return {key: _python(item, depth + 1) for key, item in value.items()}


def theirs(value: Any) -> Any:
    """Turn a wire value into Celery's JSON. Raises `EncodeError` for other types."""
    return _marked(from_wire(value))


def _marked(value: object) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if is_list(value):
        return [_marked(item) for item in value]
    if is_object(value) and all(type(key) is str for key in value):
        return {key: _marked(item) for key, item in value.items()}
    if kind in _ENCODERS:
        name, encode = _ENCODERS[kind]
        return {"__type__": name, "__value__": encode(value)}
    if is_secret(value):  # which Celery has no form for
        return _marked(value.get_secret_value())
    raise EncodeError(f"a {kind.__qualname__} cannot be sent to Celery: pass plain values")


# ---- signatures


def our_node(made: Any) -> Wire:
    """Turn a signature of Celery's into one of `Node.to_dict`. Raises `DecodeError`."""
    match made:
        case {"task": "celery.group", "kwargs": {"tasks": [*members]}}:
            node: Wire = {"group": [our_node(member) for member in members]}
        case {"task": "celery.chain", "kwargs": {"tasks": [*steps]}}:
            node = {"chain": [our_node(step) for step in steps]}
        case {"task": "celery.chord", "kwargs": {"header": header, "body": body}}:
            members = header
            if is_object(header):
                members = header.get("kwargs", {}).get("tasks")
            if not is_list(members):
                raise DecodeError("undecodable: a Celery chord without a list for its header")
            node = {"chord": [our_node(each) for each in members], "body": our_node(body)}
        case {
            "task": "celery.map" | "celery.starmap" as name,
            "kwargs": {"task": task, "it": items},
        }:
            node = {"task": name.replace("celery", "cloudq"), "args": mapped(task, items)}
        case {"task": str(task)} if not task.startswith("celery."):
            kwargs: Wire = made.get("kwargs") or {}
            node = {"task": task, "args": [ours(arg) for arg in made.get("args") or ()]}
            node["kwargs"] = {key: ours(arg) for key, arg in kwargs.items()}
        case {"task": task}:
            raise DecodeError(f"undecodable: a Celery signature of {task!r} has no like here")
        case _:
            raise DecodeError(f"undecodable: {str(made)[:100]!r} is no Celery signature")
    return node | _around(made)


def mapped(task: Any, items: Any) -> list[Any]:
    """Turn the arguments of Celery's `map` and `starmap` into those of cloudq's."""
    name = task.get("task") if is_object(task) else None
    return [name, ours(items)]


def _around(made: Wire) -> Wire:
    """Translate everything of a signature but its call: id, options, callbacks."""
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
        listed = nodes if is_list(nodes) else [nodes]
        if listed:
            around[name] = [our_node(node) for node in listed]
    return around


def _option(name: str, value: Any) -> Any:
    if name == "headers":
        headers = value if is_object(value) else {}
        return {key: text for key, text in headers.items() if isinstance(text, str)}
    return value


def aware(text: str) -> datetime:
    """Read an ISO time of Celery's; a naive one is UTC. Raises `DecodeError`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise DecodeError(f"undecodable: {text[:50]!r} is no time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def their_node(made: Wire) -> Wire:
    """Turn a signature of `Node.to_dict` into one of Celery's. Raises `EncodeError`."""
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
