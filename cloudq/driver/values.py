"""Plain values that drivers of every kind use: an address, a stored value, a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from cloudq.driver.immutable import immutable

Value = str | bytes | int | float | bool | frozenset[str] | None
"""The types of an `Item`'s fields; an empty set and an absent field are the same."""


class Code(StrEnum):
    """The kinds of a service's errors, one for each reaction."""

    NOT_FOUND = "not_found"  # no such queue or table
    EXISTS = "exists"
    DENIED = "denied"  # the credentials are known, and may not
    CREDENTIALS = "credentials"  # no credentials, or ones that the service does not know
    THROTTLED = "throttled"  # later is fine
    UNREACHABLE = "unreachable"  # no answer, or the service is ill
    TOO_LARGE = "too_large"
    INVALID = "invalid"  # the request can never work
    LEASE_LOST = "lease_lost"  # the delivery belongs to someone else by now
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@immutable
class Address:
    """A broker's or a backend's URL, taken apart: `scheme://host/path?options`.

    `path` is what follows the host, without its first slash: `sqlite:///a.db` gives `a.db`, and
    `sqlite:////var/a.db` gives `/var/a.db`.
    """

    scheme: str
    host: str = field(default="", repr=False)
    path: str = ""
    # These may hold keys and passwords.
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    url: str = field(default="", repr=False)


@immutable
class Failure:
    """One element of a batch that the service refused: its place in the batch, and the reason."""

    index: int
    code: Code
    reason: str
