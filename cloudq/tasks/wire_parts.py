"""Checks the workflow parts of a message when it is read, so that its end can start them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cloudq.errors import CloudQError, DecodeError
from cloudq.messages.message import TaskMessage, WrongField
from cloudq.messages.values import from_wire, is_list, is_object
from cloudq.tasks.call_options import CallOptions, Options
from cloudq.tasks.callback import CALLBACKS

_PLACES = ("chain", "link", "link_error")
# Each level is two levels of JSON at least, of which its parser takes 200.
_DEEPEST = 100
# Steps of a chain in one message: each is recorded when the chain fails. A message of this release
# carries few, and the others are in the store.
_STEPS = 10_000
# Chunks of a chain in the store: the sort key has nine digits at most.
_MOST_CHUNKS = 10**9
_KNOWN = frozenset(CallOptions.__annotations__)


def check_parts(message: TaskMessage, now: float) -> None:
    """Check every signature that follows a call, `now` in epoch seconds.

    What passes can be read by `from_dict` and sent by a `Planner`. Raises `DecodeError`, which
    names the part at fault.
    """
    stack: list[tuple[Any, str, int]] = [
        (part, f"{place}.{number}", 1)
        for place in _PLACES
        for number, part in enumerate(getattr(message, place))
    ]
    _count(message.link, "link")
    _count(message.link_error, "link_error")
    if len(message.chain) > _STEPS:
        raise DecodeError(f"undecodable: {len(message.chain):,} steps: {_STEPS:,} at most")
    while stack:
        part, path, depth = stack.pop()
        if depth > _DEEPEST:
            raise DecodeError(f"undecodable: {path[:100]}: nested deeper than {_DEEPEST} levels")
        try:
            if _is_stored(part) and path.rpartition(".")[0].endswith("chain"):
                continue
            inside = list(_inside(part))
            _check_call(part, now)
        except WrongField as error:
            raise DecodeError(f"undecodable: {path}: {error.place}: {error.why}") from error
        except (CloudQError, ValueError, TypeError, ArithmeticError) as error:
            raise DecodeError(f"undecodable: {path}: {error}") from error
        stack += [(each, f"{path}.{name}", depth + 1) for each, name in inside]


def _is_stored(part: Any) -> bool:
    """Tell whether a part stands for later steps of a chain that are in the store."""
    match part:
        case {"more": str(more), "at": int(at), **rest}:
            TaskMessage(id=more, task=rest.pop("id", "-"))  # both are ids, and bounded as such
            return 0 <= at < _MOST_CHUNKS and not rest
        case _:
            return False


def _inside(part: Any) -> Iterator[tuple[Any, str]]:
    """Yield the parts of a part, callbacks included, each with its name."""
    if not is_object(part):
        raise DecodeError("it is no signature")
    match part:
        case {"task": str()}:
            pass
        case {"chain": [*steps]} if steps:
            yield from _named(steps, "chain")
        case {"group": [*members]}:
            yield from _named(members, "group")
        case {"chord": [*members], "body": body}:
            yield from _named(members, "chord")
            yield body, "body"
        case _:
            raise DecodeError("it is no signature")
    for place in ("link", "link_error"):
        callbacks = part.get(place, [])
        _count(callbacks, place)
        yield from _named(callbacks, place)


def _named(parts: list[Any], place: str) -> Iterator[tuple[Any, str]]:
    for number, each in enumerate(parts):
        yield each, f"{place}.{number}"


def _count(callbacks: Any, place: str) -> None:
    if not is_list(callbacks):
        raise DecodeError(f"undecodable: {place} is no list")
    if len(callbacks) > CALLBACKS:
        raise DecodeError(f"undecodable: {len(callbacks):,} callbacks: {CALLBACKS:,} at most")


def _check_call(part: Mapping[str, Any], now: float) -> None:
    """Check what a part has besides other parts: its call, its id and its options."""
    task, args, kwargs = part.get("task", "-"), part.get("args", []), part.get("kwargs", {})
    if not is_list(args) or not is_object(kwargs):
        raise DecodeError("args is no list, or kwargs no object")
    from_wire(args)
    for value in kwargs.values():
        from_wire(value)
    id = part.get("id")
    fields: dict[str, Any] = {"task": task if "task" in part else "-"}
    given = part.get("options", {})
    if not is_object(given):
        raise DecodeError("options is no object")
    if given:
        fields |= _options(given, now)
    task_id = fields.pop("task_id", None)
    for name in (id,) if task_id is None else (id, task_id):
        TaskMessage(id="-" if name is None else name, **fields)


def _options(given: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Read options as for a call; return those that become fields of its message."""
    # Those of a newer release do nothing.
    known: Any = {name: from_wire(value) for name, value in given.items() if name in _KNOWN}
    if known.get("unique_key") is not None:
        raise DecodeError("unique_key is for single calls")
    options = Options.of(known)
    fields: dict[str, Any] = {**options.in_message()}
    for name in ("task_id", "queue", "serializer", "compression", "protocol"):
        if known.get(name) is not None:
            fields[name] = known[name]
    return fields | {
        "not_before": options.not_before(now),
        "expires": options.expiry(now, None),
    }
