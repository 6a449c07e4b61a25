"""The protocol of a key service: it makes data keys, and opens those that it has made."""

from __future__ import annotations

import base64
from dataclasses import field
from typing import Protocol

from cloudq.driver.immutable import immutable
from cloudq.driver.values import Code


class KeyRefused(Exception):
    """Raised for a wrapped data key that this key has not made for this app."""


@immutable
class DataKey:
    """A key of 32 bytes, and the form in which it travels beside what it encrypts."""

    plain: bytes = field(repr=False)
    wrapped: bytes


class Cipher(Protocol):
    """AES-256-GCM under one data key, as the library `cryptography` has it."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class KeyService(Protocol):
    """One key of a key service, which never leaves it. Safe to call from many threads."""

    def new_data_key(self, app: str) -> DataKey:
        """Make a data key, bound to the name of an app."""
        ...

    def open_data_key(self, wrapped: bytes, app: str) -> bytes:
        """Return the data key of 32 bytes in its wrapped form.

        Raises `KeyRefused` where trying again can never help: it is not of this key, of another
        app, or was changed.
        """
        ...

    def check(self) -> None:
        """Raise the service's error where the key cannot be used. Makes one data key."""
        ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...


def key_bytes(secret: str) -> bytes:
    """Read a key of the settings. Raises `ValueError` for what is not base64 of 32 bytes."""
    key = base64.b64decode(secret, validate=True)
    if len(key) != 32:
        raise ValueError(f"{len(key)} bytes, where 32 are expected")
    return key
