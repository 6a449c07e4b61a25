"""Reads pydantic's secrets, which travel in the open unless their message is encrypted."""

from __future__ import annotations

from typing import Any

from pydantic import Secret, SecretBytes, SecretStr

from cloudq.messages.values import from_wire


def read_secret(content: Any) -> Any:
    """Return the secret whose value this is, as `to_wire` writes it. Raises `DecodeError`."""
    value = from_wire(content)
    if isinstance(value, str):
        return SecretStr(value)
    return SecretBytes(value) if isinstance(value, bytes) else Secret[Any](value)
