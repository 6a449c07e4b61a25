"""Reads Celery's messages of protocol 2, as kombu puts them on SQS, as `TaskMessage`s.

The body is the base64 of a JSON object (or that object): `headers` with the call's options, and a
`body` that holds `[args, kwargs, embed]`, in base64 again. `embed` has callbacks, errbacks, and
what is left of a chain, its next step last.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

from cloudq.canvas.freeze import frozen, walk
from cloudq.contrib.celery.protocol.values import aware, mapped, our_node, ours
from cloudq.errors import CloudQError, DecodeError
from cloudq.messages.compression import expand
from cloudq.messages.message import CELERY, TaskMessage, WrongField
from cloudq.messages.serializers import load_msgpack, load_yaml
from cloudq.messages.size import check_text
from cloudq.messages.values import check_depth, is_object
from cloudq.tasks.signature import Node
from cloudq.tasks.signature_json import from_dict

Wire = dict[str, Any]

# What reading a field of another type than Celery's raises.
_MALFORMED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)

KEPT = "cloudq"
"""The header in which cloudq keeps the fields of its messages that Celery does not have."""
KEPT_FIELDS = ("depth", "replaced", "sent_at", "group_key", "dedup_key", "idempotency_key")
"""The fields in it: Celery ignores them, and a cloudq worker that reads the message needs them."""

_CONTENT = {
    "application/json": "json",
    "application/x-yaml": "yaml",
    "application/x-msgpack": "msgpack",
    "application/x-python-serialize": "pickle",
}
COMPRESSION = {
    "application/x-gzip": "zlib",
    "application/x-bz2": "bz2",
    "application/zstd": "zstd",
}
# Signatures that follow a call: each is translated, named and checked.
_MOST_PARTS = 10_000
# The headers of protocol 2; all others are the caller's own.
_THEIRS = frozenset(
    (
        *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries"),
        *("timelimit", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin"),
        *("ignore_result", "replaced_task_nesting", "stamped_headers", "stamps", "compression"),
        *("sent_event", "reply_to", "correlation_id"),
    )
)


def read(body: bytes, queue: str, limit: int, accept: Collection[str]) -> TaskMessage | None:
    """Read the call in a message of Celery's; None for a body that is not Celery's.

    The same body gives the same message each time, ids of callbacks included. Raises
    `DecodeError` for a call that cannot be run here.
    """
    if len(body) > limit * 2:  # base64 twice
        raise DecodeError(f"oversized: {len(body):,} bytes, this app accepts {limit:,}")
    outer = _outer(body)
    if outer is None:
        return None
    headers = outer["headers"]
    if not isinstance(headers.get("task"), str) or not isinstance(headers.get("id"), str):
        raise DecodeError("a Celery message without task and id in its headers: is it protocol 1?")
    args, kwargs, embed = _content(outer, limit, accept)
    if embed.get("chord"):
        raise DecodeError(
            "a member of a Celery chord: what joins it lies in Celery's result backend, so only "
            "Celery's workers can run it; start the chord from cloudq"
        )
    try:
        return TaskMessage(**_fields(headers, args, kwargs, embed, queue))
    except WrongField as error:
        raise DecodeError(f"undecodable Celery message: {error}") from error
    except (CloudQError, *_MALFORMED) as error:
        raise DecodeError(f"undecodable Celery message: {error}") from error


def fields(body: bytes) -> Wire | None:
    """Return what of a message that cannot be read tells whose call it is."""
    outer = _outer(body)
    if outer is None:
        return None
    headers = outer["headers"]
    names = {"id": "id", "task": "task", "root_id": "root", "parent_id": "parent", "group": "group"}
    known = {ours: headers.get(theirs) for theirs, ours in names.items()}
    return known | {"ignore_result": headers.get("ignore_result")}


def is_celery(body: bytes) -> bool:
    """Tell whether a body has the form of Celery's messages."""
    return _outer(body) is not None


def _outer(body: bytes) -> Wire | None:
    text = body
    if not body.startswith(b"{"):
        try:
            text = base64.b64decode(body, validate=True)
        except ValueError:
            return None
    try:
        check_text(text)
        outer: object = orjson.loads(text)
    except (orjson.JSONDecodeError, DecodeError):  # too many values are none of Celery's
        return None
    if not is_object(outer):
        return None
    is_theirs = is_object(outer.get("headers")) and "body" in outer and "v" not in outer
    return outer if is_theirs else None


def _content(
    outer: Wire, limit: int, accept: Collection[str]
) -> tuple[list[Any], Wire, Mapping[str, Any]]:
    kind = outer.get("content-type")
    name = _CONTENT.get(str(kind))
    if name is None:
        raise DecodeError(f"unknown content type {kind!r} of a Celery message")
    if name == "pickle":
        raise DecodeError("content type 'pickle' is refused: Celery's messages are not signed")
    if name not in accept:
        raise DecodeError(f"content type {name!r} is not in this app's accept_content")
    properties = outer.get("properties")
    encoding = properties.get("body_encoding") if is_object(properties) else None
    text = str(outer["body"])
    try:
        data = base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
    except ValueError as error:
        raise DecodeError(f"undecodable Celery message: {error}") from error
    zipped = outer["headers"].get("compression")
    if zipped is not None:
        data = expand(COMPRESSION.get(str(zipped), str(zipped)), data, limit=limit)
    if len(data) > limit:
        raise DecodeError(f"oversized: {len(data):,} bytes, this app accepts {limit:,}")
    match _LOAD[name](data):
        case [[*args], {**kwargs}, {**embed}]:
            check_depth([args, kwargs, embed])
            _check_parts(embed)
            return args, kwargs, embed
        case _:
            raise DecodeError("undecodable Celery message: not [args, kwargs, embed]: protocol 1?")


def _check_parts(embed: Mapping[str, Any]) -> None:
    """Refuse more signatures than can be translated within a second. Raises `DecodeError`."""
    parts = 0
    level: list[Any] = [embed]
    while level:
        parts += sum("task" in part for part in level if is_object(part))
        if parts > _MOST_PARTS:
            raise DecodeError(
                f"oversized: a Celery message of more than {_MOST_PARTS:,} signatures"
            )
        below = [part.values() if is_object(part) else part for part in level]
        level = [item for items in below for item in items if isinstance(item, dict | list)]


def _load_json(data: bytes) -> Any:
    check_text(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"undecodable Celery message: {error}") from error


_LOAD = {"json": _load_json, "yaml": load_yaml, "msgpack": load_msgpack}


def _fields(
    headers: Wire, args: list[Any], kwargs: Wire, embed: Mapping[str, Any], queue: str
) -> Wire:
    id, task = headers["id"], headers["task"]
    hard, soft = headers.get("timelimit") or (None, None)
    eta, expires = headers.get("eta"), headers.get("expires")
    kept = headers.get(KEPT)
    fields: Wire = {}
    if is_object(kept):
        fields = {name: kept[name] for name in KEPT_FIELDS if name in kept}
    if task in ("celery.map", "celery.starmap"):
        task = task.replace("celery", "cloudq")
        args, kwargs = mapped(kwargs.get("task"), kwargs.get("it")), {}
    else:
        args, kwargs = ours(args), {key: ours(value) for key, value in kwargs.items()}
    follows = Follows(id)
    root = headers.get("root_id")
    return fields | {
        "id": id,
        "task": task,
        "args": args,
        "kwargs": kwargs,
        "queue": queue,
        "not_before": aware(eta).timestamp() if eta else None,
        "expires": aware(expires).timestamp() if expires else None,
        "retries": headers.get("retries") or 0,
        "root": root if root != id else None,
        "parent": headers.get("parent_id"),
        "group": headers.get("group"),
        "headers": {
            name: value
            for name, value in headers.items()
            if name not in _THEIRS and name != KEPT and isinstance(value, str)
        },
        "time_limit": hard or None,
        "soft_time_limit": soft or None,
        "ignore_result": True if headers.get("ignore_result") else None,
        "chain": follows.nodes("chain", reversed(embed.get("chain") or ())),
        "link": follows.nodes("link", embed.get("callbacks") or ()),
        "link_error": [our_node(node) for node in embed.get("errbacks") or ()],
        "compression": COMPRESSION.get(str(headers.get("compression"))),
        "protocol": CELERY,
    }


class Follows:
    """Gives the follow-up signatures of a task ids that are the same at each delivery."""

    def __init__(self, id: str) -> None:
        self._id = id

    def nodes(self, name: str, made: Any) -> list[Wire]:
        return [
            self._named(from_dict(our_node(each)), f"{name}/{number}").to_dict()
            for number, each in enumerate(made)
        ]

    def _named(self, node: Node[Any], place: str) -> Node[Any]:
        given = {each.id for each in _everything(node)}
        made = frozen(node)
        for number, each in enumerate(_everything(made)):
            if each.id is not None and each.id not in given:
                each.id = str(uuid5(NAMESPACE_URL, f"cloudq/celery/{self._id}/{place}/{number}"))
        return made


def _everything(node: Node[Any]) -> Iterator[Node[Any]]:
    for each in walk(node):
        yield each
        for callback in each.links:
            yield from _everything(callback)
