"""Puts large arguments of messages into the payload store, and claims in their places."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from cloudq.driver.forks import imported
from cloudq.messages.codec import Codec
from cloudq.messages.json_text import is_list, is_object, json_bytes
from cloudq.messages.message import TaskMessage
from cloudq.messages.serializers import PICKLE

if TYPE_CHECKING:
    from cloudq.messages.payloads import Claim, Payloads

NEVER_LARGE = 1024
"""Bytes of a body that any queue and any setting takes."""
# Values of fewer bytes are not worth a claim, which has 200 of them.
_SMALL = 1024
_CALLS = ("chain", "link", "link_error")


class ClaimCheck:
    """Encodes messages; what makes them too large for their queue goes to the payload store.

    `over` is a smaller size from which on it goes there; None: what the queue takes. `payloads`
    opens the store, and returns None where there is none.
    """

    def __init__(
        self,
        codec: Codec,
        payloads: Callable[[], Payloads | None] = lambda: None,
        over: int | None = None,
    ) -> None:
        self.codec = codec
        self._payloads = payloads
        self._over = inf if over is None else over

    def encode(self, message: TaskMessage, most: int) -> bytes:
        """Encode a message for a queue that takes `most` bytes. Raises as `Codec`, and `fit`."""
        body = self.codec.encode(message)
        return body if len(body) <= NEVER_LARGE else self.fit(message, body, most)

    def fit(self, message: TaskMessage, body: bytes, most: int) -> bytes:
        """Return the body of a message, of up to `most` bytes if it can be. Raises `PayloadError`.

        Raises `ConfigurationError` for a value that is larger than the app allows.
        """
        excess = len(body) - int(min(most, self._over))
        if excess <= 0 or message.protocol is not None or message.serializer == PICKLE:
            return body
        payloads = self._payloads()
        if payloads is None:
            return body
        claims, contents = _claims(message, excess, payloads)
        if not claims:
            return body
        small = self.codec.encode(message.model_copy(update=_with_claims(message, claims)))
        # What is larger than `over` all the same may be sent, but not what the queue refuses.
        if len(small) >= len(body) or len(small) > most:
            return body
        for claim, content in contents:
            payloads.store(claim.key, io.BytesIO(content), claim.size)
        return small


def _claims(
    message: TaskMessage, excess: int, payloads: Payloads
) -> tuple[Mapping[int, Claim], Sequence[tuple[Claim, bytes]]]:
    """Make claims for the largest values, of `excess` bytes; by their places, and what to store."""
    kind: str = imported("cloudq.messages.payloads").MESSAGES
    claims: dict[int, Claim] = {}
    contents: list[tuple[Claim, bytes]] = []
    for place, value, text, kept in sorted(_sized(_calls_in(message)), key=lambda s: -len(s[2])):
        if excess <= 0:
            break
        claim, content = payloads.claim(kind, value, text)
        claims[place] = claim = replace(claim, kept=kept)
        contents.append((claim, content))
        excess -= len(text) - len(json_bytes(claim.to_wire()))
    return claims, contents


def _calls_in(message: TaskMessage) -> dict[str, Any]:
    """Return what of a message has arguments: its own, and those of the calls that follow."""
    calls = {name: each for name in _CALLS if (each := getattr(message, name))}
    return {"args": message.args, "kwargs": message.kwargs, **calls}


def _sized(node: Any) -> Iterator[tuple[int, Any, bytes, bool]]:
    """Yield the arguments worth a claim, with their places among all, their JSON, and if to keep.

    One value at two places has two claims: the calls that have it end at different times.
    """
    for place, (value, kept) in enumerate(_arguments(node)):
        if type(value) is str or is_list(value) or (is_object(value) and "$blob" not in value):
            text = json_bytes(value)
            if len(text) >= _SMALL:
                yield place, value, text, kept


def _arguments(node: Any, kept: bool = False) -> Iterator[tuple[Any, bool]]:
    """Yield each argument of a call, and of the calls in it.

    Those of error callbacks are kept: each call of a workflow that replaces this one has them.
    """
    if is_list(node):
        for each in node:
            yield from _arguments(each, kept)
    elif is_object(node):
        for name, inside in node.items():
            if name == "args" and is_list(inside):
                yield from ((value, kept) for value in inside)
            elif name == "kwargs" and is_object(inside):
                yield from ((value, kept) for value in inside.values())
            else:
                yield from _arguments(inside, kept or name == "link_error")


def _with_claims(message: TaskMessage, claims: Mapping[int, Claim]) -> dict[str, Any]:
    """Return the changed fields of a message."""
    places = count()

    def swapped(value: Any) -> Any:
        claim = claims.get(next(places))
        return value if claim is None else claim.to_wire()

    return _replaced(_calls_in(message), swapped)


def _replaced(node: Any, swap: Callable[[Any], Any]) -> Any:
    """Copy a call with other arguments, swapped in the order in which `_arguments` has them."""
    if is_list(node):
        return [_replaced(each, swap) for each in node]
    if not is_object(node):
        return node
    made: dict[str, Any] = {}
    for name, inside in node.items():
        if name == "args" and is_list(inside):
            made[name] = list(map(swap, inside))
        elif name == "kwargs" and is_object(inside):
            made[name] = {key: swap(value) for key, value in inside.items()}
        else:
            made[name] = _replaced(inside, swap)
    return made
