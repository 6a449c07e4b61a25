"""Reads which key a `gcpkms://` URL names, without loading Google's packages."""

from __future__ import annotations

import re

from cloudq.driver import Address
from cloudq.errors import ConfigurationError

_NAME = re.compile(
    r"(?:projects/)?([^/]+)/(?:locations/)?([^/]+)/(?:keyRings/)?([^/]+)/(?:cryptoKeys/)?([^/]+)"
)
_PART = re.compile(r"[A-Za-z0-9._:-]{1,63}")


def key_name(address: Address) -> str:
    """Return the whole name of a key in Cloud KMS. Raises `ConfigurationError`."""
    found = _NAME.fullmatch("/".join(filter(None, (address.host, address.path))))
    if found is None or not all(map(_PART.fullmatch, found.groups())):
        raise ConfigurationError(
            f"{address.url or 'gcpkms://'} names no key: write gcpkms://PROJECT/LOCATION/KEYRING/KEY"
        )
    project, location, ring, key = found.groups()
    return f"projects/{project}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}"
