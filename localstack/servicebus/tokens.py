"""Shared access signatures, which let a client use the namespace."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs

_PREFIX = "SharedAccessSignature "


@dataclass(frozen=True, slots=True)
class Keys:
    """The valid keys, by name. Without any, every token is accepted."""

    secrets: dict[str, str] = field(default_factory=dict[str, str])

    def problem(self, token: str | None) -> str | None:
        """Return why a token is invalid, None if it is valid. Entra ID's are not checked."""
        if not token:
            return "MissingToken: The authorization header or token was not found."
        if not self.secrets or not token.startswith(_PREFIX):
            return None
        parts = token[len(_PREFIX) :]
        fields = {name: values[0] for name, values in parse_qs(parts).items()}
        secret = self.secrets.get(fields.get("skn", ""))
        if secret is None:
            return "InvalidSignature: The token names a key that does not exist."
        if not fields.get("se", "").isdigit() or int(fields["se"]) < time.time():
            return "ExpiredToken: The token is expired."
        # What is signed is the resource as it stands in the token, still quoted.
        resource = next((p[3:] for p in parts.split("&") if p.startswith("sr=")), "")
        signed = f"{resource}\n{fields['se']}".encode()
        digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        if not hmac.compare_digest(base64.b64encode(digest).decode(), fields.get("sig", "")):
            return "InvalidSignature: The token has an invalid signature."
        return None
