"""The large values of records, which lie in the payload store."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from cloudq.driver.forks import imported
from cloudq.messages.json_text import json_bytes
from cloudq.messages.payload_places import READING
from cloudq.messages.values import load_value
from cloudq.results.record import Record

if TYPE_CHECKING:
    from cloudq.messages.payloads import Payloads

# Bytes that the other fields of a record take at most, and what a store adds to an item.
_BESIDE = 16_384
_TAGS = ('{"$blob"', '{"$file"')


class LargeValues:
    """Puts large values of records into the payload store, and fetches them.

    `payloads` opens the store, and returns None where there is none. Values of more than `over`
    bytes go there; None: those that an item of the result store has no room for.
    """

    def __init__(
        self, payloads: Callable[[], Payloads | None] = lambda: None, over: int | None = None
    ) -> None:
        self.payloads = payloads
        self.over = over

    def put_away(self, text: str, item: int) -> str:
        """Return what stands in a record for a value of this JSON; an item has `item` bytes.

        Raises `PayloadError`.
        """
        most = min(item - _BESIDE, item if self.over is None else self.over)
        if len(text) * 4 <= most:  # bytes that it has at most
            return text
        content = text.encode()
        payloads = self.payloads() if len(content) > most else None
        if payloads is None:
            return text
        kind: str = imported("cloudq.messages.payloads").RESULTS
        claim, content = payloads.claim(kind, orjson.loads(content), content)
        payloads.store(claim.key, io.BytesIO(content), claim.size)
        return json_bytes(claim.to_wire()).decode()

    def load(self, text: str) -> Any:
        """Read a value from its JSON, and fetch what of it lies in the payload store.

        Raises `DecodeError`, `PayloadError`, `PayloadGone` and `ConfigurationError`.
        """
        if not any(tag in text for tag in _TAGS):
            return load_value(text)
        token = READING.set(self.payloads)
        try:
            return load_value(text)
        finally:
            READING.reset(token)

    def forget(self, record: Record | None) -> None:
        """Delete the payload of a record that is deleted."""
        if record is None or record.value is None or not record.value.startswith(_TAGS[0]):
            return
        payloads = self.payloads()
        if payloads is not None:
            module = imported("cloudq.messages.payloads")
            payloads.delete(module.keys_in([orjson.loads(record.value)], module.RESULTS))
