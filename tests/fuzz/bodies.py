"""Hostile bodies: valid messages in every form, of which a few parts were exchanged."""

from __future__ import annotations

import base64
import copy
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from cloudq.messages.signing import Keyring

KEYS = {"k1": b"k" * 32}
_KEYRING = Keyring(keys=KEYS, signs="k1")
QUEUE = "default"


def _nested(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


_SIGNATURE = {"task": "echo", "args": [1], "id": "next"}

# Values that somebody has to look at before they are used.
HOSTILE: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**70),
    10**4298,
    1e308,
    5e-324,
    float("inf"),
    float("nan"),
    "",
    "x",
    "0",
    "-1@x",
    "²@x",
    "7@join",
    "9999999999@join",
    "x" * 300,
    "x" * 70_000,
    "a\x00\x1b[31m\nb",
    "\u2028\u0085",
    "\ud800",
    "١٢",
    "1e10000000",
    "9" * 5000,
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59+00:00",
    "../../etc/passwd",
    "echo",
    "boom",
    "again",
    "nobody",
    "celery",
    "msgpack",
    "pickle",
    "zstd",
    [],
    {},
    [[]],
    [None],
    _nested(150),
    _nested(300),
    [_SIGNATURE] * 30,
    [{"chain": []}],
    [{"group": [_SIGNATURE, {"group": []}]}],
    [{"chord": [_SIGNATURE], "body": _SIGNATURE}],
    [{"chord": [], "body": {}}],
    [{"task": "echo", "link": [{"task": "boom", "link_error": [_SIGNATURE]}]}],
    [{"task": "echo", "options": {"countdown": "x"}}],
    [{"task": "echo", "options": {"countdown": 1e308, "of_a_newer_release": 1}}],
    [{"task": "echo", "options": {"eta": {"$datetime": "0001-01-01T00:00:00"}}}],
    [{"task": "echo", "options": {"expires": {"$datetime": "9999-12-31T23:59:59"}}}],
    [{"task": "echo", "options": {"retry_policy": {"max_retries": 10**30}}}],
    [{"task": "echo", "options": {"headers": {"a": 1}, "priority": 10**20}}],
    {"a": 1},
    {"task": "echo"},
    {"$decimal": "1e10000000"},
    {"$decimal": "sNaN"},
    {"$decimal": "9" * 5000},
    {"$int": "9" * 4300},
    {"$int": "1_0"},
    {"$int": 1.5},
    {"$float": "1e999"},
    {"$timedelta": [1e308, 0, 0]},
    {"$timedelta": "abc"},
    {"$bytes": "?"},
    {"$uuid": 5},
    {"$set": [[1]]},
    {"$set": [{"$decimal": "sNaN"}]},
    {"$dict": [[{}, 1]]},
    {"$dict": [1]},
    {"$datetime": 5},
    {"$time": "25:00"},
    {"$pickle": "gASVAAAA"},
    {"__type__": "decimal", "__value__": "1e10000000"},
    {"__type__": [], "__value__": 1},
    {"cloudq-schedule": "s", "cloudq-slot-expires": "1e308", "cloudq-slot": "2026-01-01T00:00:00Z"},
    {"cloudq-schedule": "s", "cloudq-slot-cron": "days|America|* * * * *"},
    {"cloudq-schedule": "s", "cloudq-slot-cron": "every|UTC|1e-300"},
    {"cloudq-schedule": "s", "cloudq-slot-cron": "at|UTC|0001-01-01T00:00:00"},
    {"cloudq-delivered": "9" * 4000},
)
_OPTIONS = {
    "countdown": 1,
    "expires": 5.0,
    "queue": QUEUE,
    "headers": {"a": "b"},
    "time_limit": 9,
    "priority": 3,
}
_NAMES = (
    *("v", "id", "task", "args", "kwargs", "queue", "sent_at", "not_before", "expires", "retries"),
    *("root", "parent", "group", "headers", "time_limit", "soft_time_limit", "ignore_result"),
    *("group_key", "dedup_key", "idempotency_key", "chain", "link", "link_error", "slot"),
    *("gather", "shadow", "depth", "replaced", "waits", "turn", "continued", "unique_key"),
    *("serializer", "compression", "protocol", "unknown", "options", "immutable", "body", "group"),
)
_TASKS = ("echo", "boom", "again", "typed", "order", "limited", "once", "many", "awaited")

Wire = dict[str, Any]
GOOD = 65_535
"""The place of a call in a bundle that is to succeed, unless what all calls share was changed."""


class Bodies:
    """Makes hostile bodies, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self._forms: Sequence[Callable[[], bytes]] = (
            *[self._plain] * 5,
            *[self._celery] * 3,
            *[self._signed] * 2,
            self._zipped,
            self._noise,
            *[self._bundle] * 2,
        )

    def next(self) -> bytes:
        """Make one more."""
        self._number += 1
        return self._random.choice(self._forms)()

    # ---- forms

    def _plain(self) -> bytes:
        return _json(self._changed(self._message()))

    def _signed(self) -> bytes:
        fields = {"app": "fuzz", "queue": QUEUE, "until": 4e9} | self._sealed()
        if self._random.random() < 0.3:
            fields = self._changed(fields)
        return _KEYRING.signed(_json(fields)[1:])

    def _zipped(self) -> bytes:
        return b'{"v":2,' + _json(self._sealed(zipped=True))[1:]

    def _sealed(self, *, zipped: bool = False) -> Wire:
        message = self._changed(self._message())
        if not zipped and self._random.random() < 0.7:
            return {"body": message}
        name = self._random.choice(("zlib", "bz2", "zstd", "zlib"))
        data = zlib.compress(_json(message)) if name == "zlib" else _json(message)
        return {"zip": name, "body": base64.b64encode(self._spoilt(data)).decode()}

    def _celery(self) -> bytes:
        pick = self._random.random()
        content = self._celery_content()
        headers: Wire = {
            "lang": "py",
            "task": self._random.choice(_TASKS),
            "id": self._id(),
            "retries": 0,
            "timelimit": [9, 8],
            "eta": "2026-11-21T09:48:43.680474+00:00",
            "root_id": "r",
            "cloudq": {"depth": 1, "group_key": "a"},
        }
        if pick < 0.6:
            content = self._changed(content)
        if pick > 0.4:
            headers = self._changed(headers)
        outer: Wire = {
            "body": base64.b64encode(_json(content)).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {"body_encoding": "base64", "correlation_id": "a"},
        }
        if pick > 0.9:
            outer = self._changed(outer)
        return base64.b64encode(_json(outer))

    def _celery_content(self) -> Any:
        step = {"task": "echo", "args": [1], "kwargs": {}, "options": {"task_id": "s"}}
        group = {"task": "celery.group", "kwargs": {"tasks": [step, step]}, "options": {}}
        chord = {"task": "celery.chord", "kwargs": {"header": group, "body": step}, "options": {}}
        embed = {"callbacks": [step], "errbacks": [step], "chain": [chord, step], "chord": None}
        args = [1, {"__type__": "decimal", "__value__": "1.5"}]
        return [args, {}, embed if self._random.random() < 0.5 else {}]

    def _bundle(self) -> bytes:
        """Make a bundle, plain or sealed; mostly the call at `GOOD` is to succeed all the same."""
        pick, number = self._random.random(), self._number
        name = f"{number:08x}-83bd-890f-bedc-cbda"
        name += f"{zlib.crc32(name.encode()) & 0xFFFF:04x}"
        calls: list[Any] = [{"n": n, **self._message()} for n in range(self._random.randrange(4))]
        for call in calls:
            del call["v"], call["id"]
        calls = self._changed(calls) if calls else [copy.deepcopy(self._random.choice(HOSTILE))]
        calls.insert(self._random.randrange(len(calls) + 1), {"n": GOOD, "args": [name]})
        bundle: Wire = {"v": 3, "id": name, "all": {"task": "echo"}, "calls": calls}
        if pick < 0.3:
            bundle["all"] |= {"headers": {"a": "b"}, "kwargs": {"a": [1, {"b": 2}]}}
        elif pick > 0.8:
            bundle = self._changed(bundle)
        body = json.dumps(bundle, separators=(",", ":")).encode()
        if 0.3 < pick < 0.4:
            return b'{"v":2,"zip":"zlib","body":"%b"}' % base64.b64encode(zlib.compress(body))
        return body

    def _noise(self) -> bytes:
        return self._spoilt(_json(self._message()))

    def _spoilt(self, data: bytes) -> bytes:
        """Change a few bytes, or none."""
        made = bytearray(data)
        for _ in range(self._random.choice((0, 0, 1, 3))):
            made[self._random.randrange(len(made))] = self._random.randrange(256)
        return bytes(made[: self._random.randrange(1, len(made))] if len(made) % 7 == 0 else made)

    # ---- messages

    def _id(self) -> str:
        return f"h{self._number}"

    def _message(self) -> Wire:
        pick, choice = self._random.random(), self._random.choice
        message: Wire = {"v": 1, "id": self._id(), "task": choice(_TASKS), "args": [1]}
        if pick < 0.3:
            message["args"] = [{"$decimal": "1.5"}]
        if pick < 0.5:
            message["chain"] = [copy.deepcopy(_SIGNATURE), {"group": [{"task": "boom"}]}]
            message["link"] = [{"task": "echo", "options": dict(_OPTIONS)}]
            message["link_error"] = [{"task": "echo", "immutable": True}]
        if 0.4 < pick < 0.7:
            message |= {"slot": "3@join", "root": "r", "parent": "p", "group": "g"}
        if pick > 0.6:
            message |= {"headers": {"a": "b"}, "retries": 1, "time_limit": 9.0, "shadow": "s"}
        if pick > 0.9:
            message |= {"idempotency_key": "k", "unique_key": "u", "kwargs": {"a": 1}}
        return message

    def _changed(self, tree: Any) -> Any:
        """Change a few places of a tree."""
        made = copy.deepcopy(tree)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._change(made)
        return made

    def _change(self, tree: Any) -> None:
        place = self._place(tree)
        choice, pick = self._random.choice, self._random.random()
        if isinstance(place, dict):
            name = choice(list(place)) if place and pick < 0.6 else choice(_NAMES)
            if pick > 0.95:
                place.pop(name, None)
            elif pick > 0.9 and place:
                place[choice(_NAMES)] = copy.deepcopy(place[choice(list(place))])
            else:
                place[name] = copy.deepcopy(choice(HOSTILE))
        elif pick < 0.8 and place:
            place[self._random.randrange(len(place))] = copy.deepcopy(choice(HOSTILE))
        else:
            place.append(copy.deepcopy(choice(HOSTILE)))

    def _place(self, tree: Any) -> Any:
        """Go down a tree by chance, to a container."""
        while True:
            inside = [each for each in _items(tree) if isinstance(each, dict | list)]
            if not inside or self._random.random() < 0.5:
                return tree
            tree = self._random.choice(inside)


def _items(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else list(tree)


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()
