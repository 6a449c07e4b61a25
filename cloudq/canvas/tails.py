"""The later steps of long chains, which lie in the result store once.

A message carries the next steps of its chain, and in place of the others a reference to them,
`{"more": id, "at": chunk}`, that is read when its turn comes. So what a chain costs grows with its
length. The id is a hash of the steps: storing them again, after a crash say, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from cloudq.canvas.freeze import final_id, walk
from cloudq.driver import Item, Key, Value
from cloudq.errors import CloudQError, DecodeError, InvalidArguments
from cloudq.messages.json_text import json_bytes
from cloudq.messages.message import TaskMessage
from cloudq.messages.sealed_text import is_sealed, why_sealed
from cloudq.results.backend import Backend
from cloudq.results.record import Record
from cloudq.results.stored import is_list
from cloudq.runtime import Runtime
from cloudq.tasks.signature import Signature
from cloudq.tasks.signature_json import from_dict

Wire = dict[str, Any]

CARRIED = 25
"""The most steps that a message of a long chain carries."""
UNSTORED = 500
"""The most steps that a chain may have where there is no result backend."""
_BYTES = 48 * 1024
# A chain may wait for much longer than results are kept.
_KEPT = 31 * 86_400.0
# Records of steps that never come are written in batches after so many.
_SINGLY = 25


# As many as their keys have numbers for.
_MOST_PARTS = 1_000


class StepsLost(CloudQError):
    """Raised for a chain whose later steps are not in the store any more."""


class Tails:
    """Stores the later steps of long chains, and reads them. Safe to use from many threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def carried(self, steps: Sequence[Wire]) -> tuple[tuple[Wire, ...], Sequence[Item]]:
        """Return what a message carries of the steps after it, and the items to store first.

        Raises `InvalidArguments` for a long chain of an app that has no result backend.
        """
        backend = self._runtime.backend
        if backend is None:
            if len(steps) > UNSTORED:
                raise InvalidArguments(
                    f"a chain of more than {UNSTORED} steps keeps its later steps in the result "
                    "backend, and the app has none: set CloudQ(backend=...) or CLOUDQ_BACKEND"
                )
            return tuple(steps), ()
        if len(steps) <= CARRIED and len(json_bytes(list(steps))) <= _BYTES:
            return tuple(steps), ()
        texts = [json_bytes(step).decode() for step in steps]
        first, *others = _portions(texts)
        if not others:
            return tuple(steps), ()
        later = steps[len(first) :]
        id = blake2b("\n".join(texts[len(first) :]).encode(), digest_size=16).hexdigest()
        reference: Wire = {"more": id, "at": 0, **_end(later[-1])}
        expires = self._runtime.clock() + self._runtime.conf.result_expires + _KEPT + _wait(later)
        # Characters, of which each may take four bytes, and encrypted a third more.
        size = backend.driver.limits.item // (5 if backend.sealing is None else 8)
        items = [
            item
            for number, portion in enumerate(others)
            for item in self._items(id, number, len(others) - 1, portion, size, expires)
        ]
        return (*steps[: len(first)], reference), items

    def _items(
        self, id: str, number: int, last: int, texts: Sequence[str], size: int, expires: float
    ) -> Iterator[Item]:
        """Make the items of a chunk: one, and more for a step that is larger than an item."""
        text = f"[{','.join(texts)}]"
        for part, start in enumerate(range(0, len(text), size)):
            fields: dict[str, Value] = {"steps": text[start : start + size]}
            if part == 0:
                parts = -(-len(text) // size)
                fields |= {"last": last, "parts": parts}
            key = _key(id, number, part)
            fields |= self._runtime.broker.codec.seal("/".join(key), _sealed(fields))
            yield Item(key=key, fields=fields, expires=expires)

    def filled(self, chain: Sequence[Wire]) -> list[Wire]:
        """Replace a reference at the start of a chain by its next steps.

        Raises `StepsLost` where they are gone, and `BackendError`.
        """
        steps = list(chain)
        while steps and "more" in steps[0]:
            reference, *later = steps
            steps = [*self._chunk(reference), *later]
        return steps

    def with_next_steps(self, message: TaskMessage) -> TaskMessage:
        """Return a message with the next steps of its chain; raises as `filled`."""
        chain = message.chain
        if not chain or "more" not in chain[0]:
            return message
        return message.model_copy(update={"chain": self.filled(chain)})

    def whole(self, chain: Sequence[Wire], unstored: Sequence[Item] = ()) -> list[Wire]:
        """Return all steps of a chain, also those of chains in it; raises as `filled`.

        `unstored` are items that are not stored yet.
        """
        known = {item.key: item for item in unstored}
        steps: list[Wire] = []
        waiting = list(reversed(chain))
        while waiting:
            step = waiting.pop()
            if "more" in step:
                waiting += reversed(self._chunk(step, known))
            else:
                steps.append(self._opened(step, unstored))
        return steps

    def _opened(self, step: Wire, unstored: Sequence[Item]) -> Wire:
        opened = dict(step)
        for name in ("chain", "group", "chord"):
            if name in step:
                opened[name] = self.whole(step[name], unstored)
        if "body" in step:
            [opened["body"]] = self.whole([step["body"]], unstored)
        return opened

    def _chunk(self, reference: Wire, known: Mapping[Key, Item] | None = None) -> list[Wire]:
        id, number = str(reference["more"]), int(reference["at"])
        first = self._read([_key(id, number, 0)], known or {})[0]
        parts = _whole_number(first.fields.get("parts"))
        if parts > _MOST_PARTS:
            raise StepsLost(f"the later steps of the chain cannot be read: {parts} parts")
        others = [_key(id, number, part) for part in range(1, parts)]
        items = [first, *self._read(others, known or {})]
        text = "".join(str(item.fields.get("steps")) for item in items)
        try:
            steps = _checked(orjson.loads(text))
        except ValueError as error:
            raise StepsLost(f"the later steps of the chain cannot be read: {error}") from error
        if number < _whole_number(first.fields.get("last")):
            steps.append({**reference, "at": number + 1})
        return steps

    def _read(self, keys: Sequence[Key], known: Mapping[Key, Item]) -> list[Item]:
        asked = [key for key in keys if key not in known]
        backend = self._runtime.backend
        found: Mapping[Key, Item] = backend.get(asked) if asked and backend is not None else {}
        items: list[Item] = []
        for key in keys:
            item = known.get(key) or found.get(key)
            if item is None:
                raise StepsLost(
                    "the later steps of the chain are not in the result store: "
                    "they were deleted, or the chain has waited for more than a month"
                )
            try:
                if is_sealed(text := item.fields.get("steps")):
                    raise DecodeError(why_sealed(str(text)))
                codec = self._runtime.broker.codec
                codec.check_seal(item.fields, "/".join(key), _sealed(item.fields))
            except DecodeError as error:
                raise StepsLost(f"the later steps of the chain are refused: {error}") from error
            items.append(item)
        return items


def _key(id: str, number: int, part: int) -> Key:
    return Key(f"steps#{id}", f"{number:07d}.{part:03d}")


def _sealed(fields: Mapping[str, Value]) -> str:
    """Return what the signature of a chunk's item covers."""
    last, parts = (_whole_number(fields.get(name)) for name in ("last", "parts"))
    return f"{last} {parts} {fields.get('steps')}"


def _portions(texts: Sequence[str]) -> list[list[str]]:
    """Cut steps into portions that a message can carry, of at least one step."""
    portions: list[list[str]] = [[]]
    size = 0
    for text in texts:
        length = len(text)
        if portions[-1] and (len(portions[-1]) == CARRIED or size + length > _BYTES):
            portions.append([])
            size = 0
        portions[-1].append(text)
        size += length
    return portions


def _end(step: Wire) -> Wire:
    """Return the id of the task that gives the value of the last step, where it has one."""
    if "more" in step:
        return {"id": step["id"]} if "id" in step else {}
    return {"id": final_id(from_dict(step))}


def _wait(steps: Sequence[Wire]) -> float:
    """Return the time, in seconds, that steps wait before they run."""
    waits = [step.get("options", {}).get("countdown") for step in steps]
    return sum(float(wait) for wait in waits if isinstance(wait, int | float))


def _whole_number(value: Value) -> int:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def _checked(steps: Any) -> list[Wire]:
    if is_list(steps) and all(isinstance(step, dict) for step in steps):
        return steps
    raise ValueError("they are no list of steps")


# ---- the steps that never come


def calls_of(steps: Sequence[Wire]) -> tuple[list[tuple[str, str]], list[Wire]]:
    """Return the ids and tasks of all calls in steps, and the references that stand for others."""
    calls: list[tuple[str, str]] = []
    references: list[Wire] = []
    for step in steps:
        for node in walk(from_dict(step)):
            if isinstance(node, Signature):
                calls.append((str(node.id), node.task))
            elif "more" in (made := node.to_dict() if not node.parts() else {}):
                references.append(made)
    return calls, references


def record_all(records: Sequence[Record], backend: Backend) -> None:
    """Record the ends of calls that were never sent, unless an end is there. Raises `BackendError`.

    The first may have been sent by another delivery, so they are looked at one by one.
    """
    for record in records[:_SINGLY]:
        backend.advance(record)
    later = records[_SINGLY:]
    if not later:
        return
    there = backend.records([record.id for record in later])
    for record in later:
        if record.id in there:
            backend.advance(record)
    backend.store([record for record in later if record.id not in there])
