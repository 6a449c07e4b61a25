"""Texts of the store that are encrypted, as who has no key for them sees them."""

from __future__ import annotations

SEALED = "sealed:4:"
"""The start of an encrypted text: the id of its key and a colon follow."""
_BECAUSE = "!"


def because(reason: str) -> str:
    """Make the text that stands for one that cannot be opened, for this reason."""
    return f"{SEALED}{_BECAUSE}{reason}"


def marker(key: str) -> str:
    """Make the text that stands for one that is sealed elsewhere in its item."""
    return f"{SEALED}{key}:"


def is_sealed(text: object) -> bool:
    """Tell whether a text is encrypted."""
    return isinstance(text, str) and text.startswith(SEALED)


def key_of(text: str) -> str:
    """Return the id of the key of an encrypted text."""
    return text[len(SEALED) :].partition(":")[0]


def why_sealed(text: str) -> str:
    """Say why an encrypted text cannot be read."""
    rest = text[len(SEALED) :]
    if rest.startswith(_BECAUSE):
        return rest[len(_BECAUSE) :]
    return unknown_key(key_of(text))


def shown(text: str) -> str:
    """Return a text to show; of an encrypted one, why it cannot be read."""
    return why_sealed(text) if text.startswith(SEALED) else text


def unknown_key(name: str) -> str:
    """Say that a key is not known here."""
    return f"sealed with key {name[:64]!r}, which is not among encryption_keys"
