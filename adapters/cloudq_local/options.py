"""Reads the options of an address; an unknown one is an error that lists the known."""

from __future__ import annotations

from collections.abc import Collection

from cloudq.driver import Address
from cloudq.errors import ConfigurationError


def check_options(address: Address, known: Collection[str]) -> None:
    """Raise `ConfigurationError` when the address has an option that is not known."""
    unknown = sorted(set(address.options) - set(known))
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise ConfigurationError(
            f"{address.scheme}:// has no option {', '.join(map(repr, unknown))}: {takes}"
        )


def choice(address: Address, name: str, choices: Collection[str], default: str) -> str:
    """Return the option's value in lower case; raises `ConfigurationError` for another."""
    value = address.options.get(name, default).lower()
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r}: use one of {', '.join(choices)}")
    return value


def seconds(address: Address, name: str, default: float) -> float:
    """Return the option's value in seconds; raises `ConfigurationError` for what is no number."""
    text = address.options.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError as error:
        raise ConfigurationError(f"{name}={text!r}: give a number of seconds") from error
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"{name}={text!r}: give a number of seconds, 0 or more")
    return value
