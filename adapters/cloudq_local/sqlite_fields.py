"""An item's fields as one JSON blob, with tags for the values that JSON does not have."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import cast

import orjson

from cloudq.driver import Value
from cloudq.driver.log import Log
from cloudq_local.items import Fields

# A value is never a mapping, so a mapping of one key in its place is a tagged value. Inside a
# JSON string its quote would be escaped, so these bytes are in a blob only where a tag is.
_TAGGED = b':{"'

log = Log("cloudq.backend")


def encode(fields: Mapping[str, Value]) -> bytes:
    """Return the fields as bytes."""
    plain: Mapping[str, Value] = fields if isinstance(fields, dict) else dict(fields)
    try:
        blob = orjson.dumps(plain, default=_tag)
    except TypeError:
        # An int of more than 64 bits.
        return orjson.dumps(_tag_numbers(plain), default=_tag)
    if blob.find(b"null") >= 0 and any(_odd(value) for value in plain.values()):
        return orjson.dumps(_tag_numbers(plain), default=_tag)
    return blob


def decode(blob: bytes) -> Fields:
    """Return the fields that `encode` wrote; an empty set is an absent field.

    Of what another program has written, what cannot be read is absent too: one row must not keep
    the others of its page from being read, nor itself from being written anew.
    """
    try:
        fields = orjson.loads(blob)
        if isinstance(fields, dict):
            return _untagged(cast("Fields", fields)) if _TAGGED in blob else cast("Fields", fields)
        why = "it is no object"
    except (ValueError, TypeError) as error:
        why = str(error)
    log.warning("a row of the store counts as an item without fields: %s", why)
    return {}


def _untagged(fields: Fields) -> Fields:
    plain: dict[str, Value] = {}
    for name, tagged in fields.items():
        try:
            value = _untag(tagged)
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("field %r of a row of the store is left out: %s", name, error)
        else:
            if value != frozenset():
                plain[name] = value
    return plain


def _tag(value: object) -> dict[str, object]:
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, frozenset):
        return {"s": sorted(cast("frozenset[str]", value))}
    raise TypeError(f"a field cannot hold {type(value).__name__}")


def _odd(value: Value) -> bool:
    """Tell whether JSON would lose the number."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and value.bit_length() > 63


def _tag_numbers(fields: Mapping[str, Value]) -> dict[str, object]:
    return {name: {"n": repr(value)} if _odd(value) else value for name, value in fields.items()}


def _untag(value: object) -> Value:
    if not isinstance(value, dict):
        return cast("Value", value)
    ((tag, inner),) = cast("dict[str, object]", value).items()
    if tag == "b":
        return base64.b64decode(cast("str", inner))
    if tag == "s":
        return frozenset(cast("list[str]", inner))
    text = cast("str", inner)
    return int(text) if text.lstrip("-").isdigit() else float(text)
