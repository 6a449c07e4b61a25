"""Writes and signs requests after the pattern of one that boto3 made.

The signature is AWS's version 4, see "Create a signed AWS API request" in its reference.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^,]+)/[0-9]{8}/(?P<place>[^/,]+/[^/,]+/aws4_request), "
    r"SignedHeaders=(?P<signed>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)
# What differs from one request to the next, by its header.
_PARTS = {
    "x-amz-date": "date",
    "x-amz-security-token": "token",
    "authorization": "authorization",
    "amz-sdk-invocation-id": "id",
    "content-length": "length",
}
_NEEDED = frozenset({"x-amz-date", "authorization", "content-length"})
# Headers with which a request is another than those that are written here.
_ODD = frozenset({"transfer-encoding", "expect", "date", "host", "accept-encoding", "connection"})
# Lambda's trace, which is not signed, and is another in each invocation.
_TRACE = "x-amzn-trace-id"


@dataclass(slots=True, repr=False)
class Pattern:
    """The pattern of an operation's requests, which differ in body, time, id and signature."""

    url: str
    account: str | None
    has_token: bool
    head: str
    canonical: str
    place: str
    signed: str
    _taken: Any = None
    _key: tuple[tuple[str, str, str], bytes] = (("", "", ""), b"")

    def takes(self, credentials: Any) -> bool:
        """Tell whether requests with these credentials differ in nothing else."""
        if credentials == self._taken:
            return True
        texts = f"{credentials.access_key}{credentials.token or ''}"
        is_taken = (
            bool(credentials.token) == self.has_token
            and getattr(credentials, "account_id", None) == self.account
            and texts.isascii()
            and texts.isprintable()
        )
        if is_taken:
            self._taken = credentials
        return is_taken

    def request(self, body: bytes, credentials: Any, id: str, trace: str = "") -> bytes:
        """Write a request with the id of its call. `trace` is a header line, or empty."""
        parts = {
            "date": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
            "token": credentials.token,
            "id": id,
            "length": len(body),
            "trace": trace,
        }
        parts["authorization"] = self.authorization(parts, body, credentials)
        return (self.head % parts).encode() + body

    def authorization(self, parts: Mapping[str, Any], body: bytes, credentials: Any) -> str:
        """Sign a request of these parts; return the header's value."""
        payload = hashlib.sha256(body).hexdigest()
        canonical = self.canonical % {**parts, "payload": payload}
        date: str = parts["date"]
        scope = f"{date[:8]}/{self.place}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}"
        key = self._signing_key(credentials.access_key, credentials.secret_key, date[:8])
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={self.signed}, Signature={signature}"
        )

    def _signing_key(self, access: str, secret: str, day: str) -> bytes:
        of, key = self._key
        if of != (access, secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, *self.place.split("/")):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (access, secret, day), key
        return key


def pattern_of(request: Any, credentials: Any) -> Pattern | None:
    """Make the pattern of a request that boto3 has prepared and signed with these credentials.

    Returns None if it cannot be written, or would not be signed, as boto3 did.
    """
    headers = {_text(name): _text(value) for name, value in request.headers.items()}
    lower = {name.lower(): value for name, value in headers.items()}
    found = _AUTHORIZATION.fullmatch(lower.get("authorization", ""))
    body = request.body
    is_plain = request.method == "POST" and isinstance(body, bytes) and not lower.keys() & _ODD
    is_plain = is_plain and "".join(lower.values()).isascii()
    if found is None or not is_plain or not lower.keys() >= _NEEDED:
        return None
    if not credentials or found["key"] != credentials.access_key:
        return None
    made = written_as(
        request.url,
        {name: value for name, value in headers.items() if name.lower() != _TRACE},
        place=found["place"],
        signed=found["signed"],
        account=getattr(credentials, "account_id", None),
    )
    parts = {part: lower.get(name, "") for name, part in _PARTS.items()}
    same = made.authorization(parts, body, credentials) == lower["authorization"]
    return made if same and made.takes(credentials) else None


def written_as(
    address: str, headers: Mapping[str, str], *, place: str, signed: str, account: str | None
) -> Pattern:
    """Make the pattern of requests with these headers, in their order; `signed` are signed."""
    url = urlsplit(address)
    target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
    host = _host(url)
    values = {**{name.lower(): value for name, value in headers.items()}, "host": host}
    lines = [f"POST {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    lines = [_fixed(line) for line in lines]
    lines += [_line(name, value) for name, value in headers.items()]
    canonical = [_fixed(url.path or "/"), _fixed(url.query)]
    canonical += [_signed_line(name, values.get(name, "")) for name in signed.split(";")]
    return Pattern(
        url=address,
        account=account,
        has_token="x-amz-security-token" in values,
        head="\r\n".join(lines) + "\r\n%(trace)s\r\n",
        canonical="\n".join(["POST", *canonical, "", _fixed(signed), "%(payload)s"]),
        place=place,
        signed=signed,
    )


def written(params: Mapping[str, Any]) -> bytes | None:
    """Write parameters as JSON; None for what boto3 is to refuse."""
    try:
        return orjson.dumps(params, default=_base64)
    except TypeError:  # of text that is no UTF-8: the service says what it thinks of it
        pass
    try:
        return json.dumps(params, default=_base64).encode()
    except TypeError:
        return None


def _base64(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is no value of a request")


def _line(name: str, value: str) -> str:
    part = _PARTS.get(name.lower())
    return f"{_fixed(name)}: " + (f"%({part})s" if part else _fixed(value))


def _signed_line(name: str, value: str) -> str:
    part = _PARTS.get(name)
    return f"{_fixed(name)}:" + (f"%({part})s" if part else _fixed(" ".join(value.split())))


def _fixed(text: str) -> str:
    return text.replace("%", "%%")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _host(url: SplitResult) -> str:
    name = url.hostname or ""
    host = f"[{name}]" if ":" in name else name
    usual = {"http": 80, "https": 443}.get(url.scheme)
    return host if url.port in (None, usual) else f"{host}:{url.port}"
