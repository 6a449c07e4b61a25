"""Azure Key Vault as a key service: `azkeyvault://VAULT/KEY?endpoint=https://HOST`.

VAULT is a vault's name, or its whole host name where that does not end in `.vault.azure.net` (a
managed HSM, another Azure). KEY is an RSA key. A secret of 32 bytes is made here and wrapped there
by RSA-OAEP-256, under the key's newest version, whose id travels beside it; the data key is derived
from the secret and the app, which binds it to that app. Needed are the rights to wrap and unwrap
(the role Key Vault Crypto User on the key).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from typing import Any, cast
from urllib.parse import quote, urlsplit

import orjson
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline import Pipeline
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy
from azure.core.pipeline.transport import HttpRequest

from cloudq.driver import Address, Code
from cloudq.driver.keys import DataKey, KeyRefused
from cloudq.errors import ConfigurationError
from cloudq_azure.answers import Believed, of_vault
from cloudq_azure.errors import error_code, incomplete
from cloudq_azure.identity import Identity

_DOMAIN = "vault.azure.net"
_HOST = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9](\.[A-Za-z0-9.-]+)?")
_KEY = re.compile(r"[A-Za-z0-9-]{1,127}")
_WRAPPED = re.compile(rb"([A-Za-z0-9]{1,64})\.(.{256}|.{384}|.{512})", re.DOTALL)
_KID = re.compile(r"https://[^/]+/keys/([A-Za-z0-9-]+)/([A-Za-z0-9]{1,64})")
_API = "7.4"
_ALGORITHM = "RSA-OAEP-256"
# Seconds, and tries beside the first: the SDK's own would go on for minutes.
_CONNECT_TIMEOUT, _READ_TIMEOUT, _TRYING = 3, 10, 15
_RETRIES = 2
_METHODS = frozenset({"POST"})  # which change nothing here, so that they can be sent again
_BAD, _MISSING = 400, 404
_ADVICE = {
    "KeyDisabled": "the key, or the version of it that was used, is disabled: enable it",
    "ForbiddenByPolicy": "the vault gives this identity no right to wrap and unwrap: the role Key"
    " Vault Crypto User on the key has both",
}


class KeyVault:
    """One RSA key of a vault, or of a managed HSM."""

    def __init__(self, pipeline: Any, url: str, key: str) -> None:
        self._pipeline = pipeline
        self._url = url
        self._key = key

    def new_data_key(self, app: str) -> DataKey:
        """Make a data key, bound to the name of an app."""
        secret = os.urandom(32)
        made = self._asked("wrapkey", "", secret)
        found = _KID.fullmatch(str(made["kid"]))
        if found is None or found[1].lower() != self._key.lower():
            raise incomplete("the version of this key")
        wrapped = found[2].encode() + b"." + _bytes(made["value"])
        if not _WRAPPED.fullmatch(wrapped):
            raise incomplete("a secret that an RSA key has wrapped")
        return DataKey(plain=_derived(secret, app), wrapped=wrapped)

    def open_data_key(self, wrapped: bytes, app: str) -> bytes:
        """Return a data key in its wrapped form. Raises `KeyRefused`."""
        found = _WRAPPED.fullmatch(wrapped)
        if found is None:
            raise KeyRefused(f"{len(wrapped)} bytes, which no RSA key of a vault has wrapped")
        try:
            made = self._asked("unwrapkey", found[1].decode(), found[2])
        except HttpResponseError as error:
            if error.status_code == _BAD:
                raise KeyRefused(f"{_name(error)}: it does not unwrap") from error
            if error.status_code == _MISSING:
                # Of the key itself, or of a version that somebody has made up?
                self._asked("wrapkey", "", bytes(32))
                raise KeyRefused("the key has no such version") from error
            raise
        secret = _bytes(made["value"])
        if len(secret) != 32:
            raise KeyRefused(f"a secret of {len(secret)} bytes, where 32 are expected")
        return _derived(secret, app)

    def check(self) -> None:
        """Make a data key, and open it."""
        made = self.new_data_key("cloudq keys check")
        if self.open_data_key(made.wrapped, "cloudq keys check") != made.plain:
            raise ConfigurationError("Key Vault unwraps another secret than it was given")

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        return _ADVICE.get(_name(error)) if isinstance(error, HttpResponseError) else None

    def close(self) -> None:
        """Close the connections."""
        self._pipeline.__exit__()

    def _asked(self, operation: str, version: str, value: bytes) -> dict[str, Any]:
        """Have the vault wrap or unwrap; without a version, by the newest."""
        request = HttpRequest(
            "POST",
            f"{self._url}/keys/{quote(self._key)}/{version}/{operation}?api-version={_API}",
            headers={"Content-Type": "application/json"},
        )
        request.set_bytes_body(orjson.dumps({"alg": _ALGORITHM, "value": _text(value)}))
        answer: Any = self._pipeline.run(request, retry_on_methods=_METHODS).http_response
        if answer.status_code != 200:
            raise HttpResponseError(response=answer)
        return cast("dict[str, Any]", orjson.loads(answer.body()))


def open_keys(address: Address) -> KeyVault:
    """Open a key by its URL. Raises `ConfigurationError`; sends no request."""
    unknown = [name for name in address.options if name != "endpoint"]
    if unknown:
        raise ConfigurationError(f"azkeyvault:// has no option {unknown[0]!r}; it knows endpoint")
    key = address.path.strip("/")
    if not _HOST.fullmatch(address.host) or not _KEY.fullmatch(key):
        raise ConfigurationError(
            f"{address.url or 'azkeyvault://'} names no vault and key: write azkeyvault://VAULT/KEY"
        )
    host = address.host if "." in address.host else f"{address.host}.{_DOMAIN}"
    endpoint = address.options.get("endpoint") or f"https://{host}"
    if not urlsplit(endpoint).hostname or not endpoint.startswith("https://"):
        raise ConfigurationError(f"{address.url}: an endpoint is https://HOST, for a token is sent")
    # What a token is for is the domain that all vaults are in.
    scope = f"https://{host.partition('.')[2]}/.default"
    timeouts: dict[str, Any] = {
        "connection_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
    }
    policies: list[Any] = [
        RetryPolicy(
            retry_total=_RETRIES,
            retry_backoff_factor=0.1,
            retry_backoff_max=1,
            timeout=_TRYING,
        ),
        BearerTokenCredentialPolicy(Identity(), scope),
    ]
    pipeline: Any = Pipeline(Believed(of_vault, **timeouts), policies)
    return KeyVault(pipeline, endpoint.rstrip("/"), key)


def _derived(secret: bytes, app: str) -> bytes:
    """Derive the data key of an app by HKDF-Expand (RFC 5869), whose first block has 32 bytes."""
    info = b"cloudq data key of a vault\n" + app.encode() + b"\x01"
    return hmac.digest(secret, info, hashlib.sha256)


def _name(error: HttpResponseError) -> str:
    """Return the name of an error in an answer: the inner one, which says more."""
    told: Any = error.error
    inner: Any = getattr(told, "innererror", None) or {}
    return str(inner.get("code") or getattr(told, "code", None) or "")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: object) -> bytes:
    try:
        return base64.urlsafe_b64decode(f"{text}{'=' * (-len(str(text)) % 4)}")
    except ValueError as error:
        raise incomplete("a value in base64") from error
