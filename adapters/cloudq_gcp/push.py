"""Reads messages that Pub/Sub pushes in events or requests, and checks who signed a request."""

# google-auth is typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any

from google.auth import exceptions, jwt
from google.auth.transport.requests import Request as HttpRequest
from pydantic import AliasChoices, AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError
from requests import Session

from cloudq.driver import Delivery
from cloudq.errors import CloudQError
from cloudq_gcp.messages import ID

CERTS_URL = "https://www.googleapis.com/oauth2/v1/certs"
"""The URL of the keys that Google signs push requests with."""

_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
# Google says about six hours; without a Cache-Control header, ask again after this.
_FRESH = 300.0
_FETCH_TIMEOUT = 10
# Seconds by which two clocks may differ.
_SKEW = 10
# Characters; Google's have about 1,000.
_LONGEST_TOKEN = 16_384

LARGEST = 16 << 20
"""The longest body of a push, in bytes: a message has 10 MB at most, in base64."""

# The headers of a push without a wrapper, where its subscription has "write metadata" set.
_UNWRAPPED = "x-goog-pubsub-"


class ForeignBody(CloudQError):
    """Raised for an event or a request that is no message of Pub/Sub."""


class Unproven(CloudQError):
    """Raised for a request not from the expected subscription; `status` is its HTTP answer."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


# ---- messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A message as Pub/Sub pushes it. `attempts` is 1 where no dead-letter policy counts them.

    `topic` and `subscription` are names without their project, None if unknown.
    """

    id: str
    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    subscription: str | None = None
    topic: str | None = None
    group: str | None = None
    published: float | None = None
    attempts: int = 1

    def delivery(self, queue: str, lease: float) -> Delivery:
        """Return the message as the driver would have received it, but without a lease."""
        return Delivery(
            queue=queue,
            id=self.attributes.get(ID) or self.id,
            body=self.data,
            receipt=None,
            attempts=self.attempts,
            lease=lease,
            group=self.group,
            sent_at=self.published,
        )


def from_event(source: object, data: object) -> Pushed:
    """Read the message in a CloudEvent's data; `source` names its topic. Raises `ForeignBody`."""
    match = re.search(r"topics/([^/]+)$", source) if isinstance(source, str) else None
    return _wrapped(data, topic=match and match[1])


def from_request(headers: Mapping[str, str], body: bytes) -> Pushed:
    """Read the message in a push request, wrapped or not. Raises `ForeignBody`.

    `headers` have lower-case names. Of a request without a wrapper they must carry the metadata.
    """
    if f"{_UNWRAPPED}message-id" in headers:
        return _unwrapped(headers, body)
    if len(body) > LARGEST:
        raise ForeignBody(f"no push of Pub/Sub: {len(body):,} bytes, and it sends {LARGEST:,}")
    return _wrapped(body, topic=None)


class _Message(BaseModel):
    """The JSON of a message in a push or an event."""

    id: str = Field(validation_alias=AliasChoices("messageId", "message_id"))
    data: str = ""
    attributes: dict[str, str] | None = None
    group: str | None = Field(default=None, validation_alias="orderingKey")
    published: AwareDatetime | None = Field(default=None, validation_alias="publishTime")


class _Envelope(BaseModel):
    """The JSON around a message. `attempt` is there if a dead-letter policy counts deliveries."""

    message: _Message
    subscription: str | None = None
    attempt: int = Field(default=1, le=2**31 - 1, validation_alias="deliveryAttempt")


def _wrapped(data: object, *, topic: str | None) -> Pushed:
    try:
        if isinstance(data, bytes):
            envelope = _Envelope.model_validate_json(data)
        else:
            envelope = _Envelope.model_validate(data)
        body = base64.b64decode(envelope.message.data, validate=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise ForeignBody(f"no push of Pub/Sub: {place}: {first['msg']}") from error
    except ValueError as error:
        raise ForeignBody(f"no push of Pub/Sub: its data is not base64 ({error})") from error
    message = envelope.message
    return Pushed(
        id=message.id,
        data=body,
        attributes=message.attributes or {},
        subscription=_last(envelope.subscription),
        topic=topic,
        group=message.group or None,
        published=message.published.timestamp() if message.published else None,
        attempts=max(1, envelope.attempt),
    )


def _unwrapped(headers: Mapping[str, str], body: bytes) -> Pushed:
    return Pushed(
        id=headers[f"{_UNWRAPPED}message-id"],
        data=body,
        attributes=headers,  # each attribute of the message is a header
        subscription=_last(headers.get(f"{_UNWRAPPED}subscription-name")),
        group=headers.get(f"{_UNWRAPPED}ordering-key") or None,
        published=_time(headers.get(f"{_UNWRAPPED}publish-time")),
    )


def _last(path: str | None) -> str | None:
    return (path or "").rpartition("/")[2] or None


def _time(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


# ---- the sender


class _Certificates:
    """Google's keys, kept for as long as the answer's `Cache-Control` allows.

    The answer is a JSON object: key id -> X.509 certificate (or public key) as PEM.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = Lock()
        self._keys: Mapping[str, str] = {}
        self._until = 0.0

    def get(self) -> Mapping[str, str]:
        with self._lock:  # one fetch, however many requests wait for it
            if self._until <= time.monotonic():
                with Session() as session:  # so rare that no connection is kept
                    reply = HttpRequest(session)(self._url, timeout=_FETCH_TIMEOUT)
                if reply.status != 200:
                    raise exceptions.TransportError(f"{self._url} answers {reply.status}")
                self._keys = _keys(reply.data, self._url)
                self._until = time.monotonic() + _fresh(reply.headers.get("cache-control", ""))
            return self._keys


def _keys(body: bytes, url: str) -> Mapping[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_json(body)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise exceptions.TransportError(f"{url} has no certificates by key id: {why}") from error


def _fresh(control: str) -> float:
    match = re.search(r"max-age=(\d+)", control)
    return float(match[1]) if match else _FRESH


class Tokens:
    """Verifies the OIDC token that an authenticated push subscription signs its requests with.

    Such a token is a Google-signed JWT of a service account (`email`) for this endpoint
    (`audience`). Any project can have a subscription push here, so both are checked.
    """

    def __init__(self, *, audience: Sequence[str], email: str, certs_url: str) -> None:
        self._audience = list(audience)
        self._email = email
        self._certificates = _Certificates(certs_url)

    def check(self, authorization: str | None) -> None:
        """Raise `Unproven` unless the header has a token of the expected service account.

        Raises `google.auth.exceptions.TransportError` when the keys cannot be fetched.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unproven("no token was sent: the push subscription must authenticate", status=401)
        if len(token) > _LONGEST_TOKEN:
            raise Unproven(f"a token of {len(token):,} characters is none of Google's", status=401)
        claims = self._claims(token.strip())
        issuer, email = claims.get("iss"), claims.get("email")
        if issuer not in _ISSUERS:
            raise Unproven(f"the token was issued by {issuer}, not by Google", status=401)
        if email != self._email:
            raise Unproven(f"the token is of {email}, not of the expected account", status=403)
        if claims.get("email_verified") is not True:
            raise Unproven(f"the token's email {email} is not verified", status=403)

    def _claims(self, token: str) -> Mapping[str, Any]:
        certificates = self._certificates.get()
        try:
            return jwt.decode(
                token,
                certs=certificates,
                audience=self._audience,
                clock_skew_in_seconds=_SKEW,
            )
        except exceptions.TransportError:
            raise
        # For text that is no token the decoder raises errors of many kinds, as does JSON that is
        # nested deep, which it reads before it looks at the signature.
        except Exception as error:
            raise Unproven(f"the token is not valid: {_line(error)}", status=401) from error


def _line(error: Exception) -> str:
    """Return the start of an error's text: some repeat the whole token, which is a secret."""
    return str(error).partition("\n")[0].partition(": b'")[0][:200]
