"""Encrypts bodies and stored texts, and binds each to what it is: AES-256-GCM, under data keys.

An encrypted body is an envelope of version 4. Its header is in the clear, and is authenticated as
it stands: `{"v":4,["key":..,"sig":..,]"app":..,"queue":..,"id":..,["task":..,"until":..,"type":..,
"zip":..,]"with":..,"wrapped":..,"body":"<base64 of nonce, ciphertext and tag>"}`. What it is
encrypted for is in the header, so a body that is moved to another queue, app or task opens no more.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from cloudq.driver.keys import Cipher
from cloudq.errors import DecodeError
from cloudq.messages.data_keys import DataKeys
from cloudq.messages.json_text import json_text
from cloudq.messages.optional import invalid_tag
from cloudq.messages.sealed_text import SEALED, marker, unknown_key
from cloudq.messages.signing import KEY_ID

_BODY = b',"body":"'
_END = b'"}'
_LONGEST_HEADER = 16_384
_NONCE, _TAG = 12, 16
_TEXTS = ("app", "queue", "id", "with", "wrapped")
_MAYBE = ("task", "type", "zip")
_STORED_FORM = re.compile(rf"{SEALED}({KEY_ID}):([A-Za-z0-9_-]{{1,8000}}):([A-Za-z0-9_-]*)")


class Encryption:
    """The keys of one app: all of them open, and `seals` is the id of the one that encrypts.

    With `required` a body that is not encrypted is refused. `hides_task` leaves the names of tasks
    out of headers. Safe to use from many threads.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        *,
        seals: str | None = None,
        required: bool = True,
        hides_task: bool = False,
    ) -> None:
        self.given = keys, seals, required, hides_task
        self.keys = {name: DataKeys(name, secret) for name, secret in keys.items()}
        self.seals = seals or next(iter(keys))
        self.required = required
        self.hides_task = hides_task

    def close(self) -> None:
        """Forget all data keys, and close the connections to key services."""
        for keys in self.keys.values():
            keys.close()

    # ---- bodies

    def sealed(self, app: str, fields: Mapping[str, object], data: bytes) -> bytes:
        """Return the rest of an envelope with this header: all of it after its version.

        Raises `KeyServiceError`.
        """
        wrapped, cipher = self.keys[self.seals].current(app)
        header = json_text({**fields, "with": self.seals, "wrapped": _text(wrapped)})[1:-1]
        nonce = os.urandom(_NONCE)
        made = base64.b64encode(nonce + cipher.encrypt(nonce, data, _bound(header)))
        return b"%b%b%b%b" % (header, _BODY, made, _END)

    def opened(self, rest: bytes, fields: Mapping[str, Any]) -> bytes:
        """Return the data of an envelope, whose header has been read and may be asked for.

        Raises `DecodeError`, `KeyServiceError`.
        """
        keys = self._keys(fields["with"])
        cipher = keys.opened(_bytes(fields["wrapped"]), fields["app"])
        header, _, text = rest.rpartition(_BODY)
        sealed = _whole(text)
        try:
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(header))
        except invalid_tag():
            raise DecodeError(
                f"bad seal: changed, or not what key {keys.name!r} has encrypted for app "
                f"{fields['app']!r}, queue {fields['queue']!r} and id {fields['id']!r}"
            ) from None

    def _keys(self, name: str) -> DataKeys:
        keys = self.keys.get(name)
        if keys is None:
            raise DecodeError(unknown_key(name))
        return keys

    # ---- in the store

    def seal_text(self, app: str, place: str, text: str) -> str:
        """Encrypt a text for its place in the store. Raises `KeyServiceError`."""
        # What JSON cannot have, a text of Python may: half of a surrogate pair.
        return self.seal_bytes(app, place, text.encode(errors="surrogatepass"))

    def open_text(self, text: str, place: str, apps: Collection[str] | None = None) -> str:
        """Return what `seal_text` was given; raises as `open_bytes`."""
        return self.open_bytes(text, place, apps).decode(errors="surrogatepass")

    def seal_bytes(self, app: str, place: str, data: bytes) -> str:
        """Encrypt data for its place in the store, as a text. Raises `KeyServiceError`."""
        wrapped, cipher = self.keys[self.seals].current(app)
        nonce = os.urandom(_NONCE)
        made = nonce + cipher.encrypt(nonce, data, _place(app, place))
        return f"{marker(self.seals)}{_text(_named(app, wrapped))}:{_text(made)}"

    def open_bytes(self, text: str, place: str, apps: Collection[str] | None = None) -> bytes:
        """Return what `seal_bytes` was given; with `apps` only what one of these has sealed.

        Raises `DecodeError`, `KeyServiceError`.
        """
        found = _STORED_FORM.fullmatch(text)
        if found is None:
            raise DecodeError("bad seal: cut short, or changed")
        keys = self._keys(found[1])
        app, wrapped = _app_and_key(_bytes(found[2]))
        if apps is not None and app not in apps:
            raise DecodeError(f"bad seal: it is app {app!r}'s, which is not in signing_apps")
        cipher, sealed = keys.opened(wrapped, app), _bytes(found[3])
        if len(sealed) < _NONCE + _TAG:
            raise DecodeError("bad seal: cut short")
        try:
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _place(app, place))
        except invalid_tag():
            raise DecodeError(
                f"bad seal: changed, or not what key {keys.name!r} has encrypted for this place"
            ) from None

    # ---- payloads

    def payload_key(self, app: str) -> tuple[dict[str, object], Cipher]:
        """Return the header of a payload that is sealed now, and what seals its parts.

        Raises `KeyServiceError`.
        """
        wrapped, cipher = self.keys[self.seals].current(app)
        return {"v": 4, "app": app, "with": self.seals, "wrapped": _text(wrapped)}, cipher

    def open_payload_key(self, header: Mapping[str, Any]) -> tuple[str, Cipher]:
        """Return the app in a payload's header, and what opens its parts.

        Raises `DecodeError`, `KeyServiceError`.
        """
        app, name, wrapped = header.get("app"), header.get("with"), header.get("wrapped")
        if not (isinstance(app, str) and isinstance(name, str) and isinstance(wrapped, str)):
            raise DecodeError("bad seal: a payload's header has no app, key or data key")
        return app, self._keys(name).opened(_bytes(wrapped), app)


# ---- what can be told without a key


def header_of(rest: bytes) -> dict[str, Any]:
    """Read the header of an envelope, nothing of which is to be believed. Raises `DecodeError`."""
    header, found, text = rest.rpartition(_BODY)
    if not found or not text.endswith(_END):
        raise DecodeError("bad seal: the body is cut short")
    if len(header) > _LONGEST_HEADER:
        raise DecodeError("oversized: the header of an encrypted body")
    try:
        fields: dict[str, Any] = orjson.loads(b"{%b}" % header)
    except ValueError as error:
        raise DecodeError(f"undecodable: {error}") from error
    for name in (*_TEXTS, *(each for each in _MAYBE if each in fields)):
        if not isinstance(fields.get(name), str):
            raise DecodeError(f"undecodable: the header of an encrypted body: {name}: not a text")
    return fields


# ---- bytes


def _bound(header: bytes) -> bytes:
    return b"cloudq 4\n" + header


def _place(app: str, place: str) -> bytes:
    return f"cloudq stored\n{len(app)} {app} {place}".encode(errors="surrogatepass")


def _named(app: str, wrapped: bytes) -> bytes:
    """Put the name of an app and a wrapped key into one."""
    return app.encode() + b"\0" + wrapped


def _app_and_key(data: bytes) -> tuple[str, bytes]:
    name, _, wrapped = data.partition(b"\0")
    try:
        return name.decode(), wrapped
    except UnicodeDecodeError as error:
        raise DecodeError("bad seal: the name of its app is not UTF-8") from error


def _whole(text: bytes) -> bytes:
    """Read the base64 of a body. One and the same data has one text alone."""
    try:
        sealed = base64.b64decode(text[: -len(_END)], validate=True)
    except ValueError as error:
        raise DecodeError(f"bad seal: the body is not base64: {error}") from error
    if len(sealed) < _NONCE + _TAG:
        raise DecodeError("bad seal: the body is cut short")
    if base64.b64encode(sealed[-(len(sealed) % 3 or 3) :]) != text[-4 - len(_END) : -len(_END)]:
        raise DecodeError("bad seal: the body is not base64 as it is written")
    return sealed


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(f"{text}{'=' * (-len(text) % 4)}".encode())
    except ValueError as error:
        raise DecodeError(f"bad seal: not base64: {error}") from error
    if _text(data) != text:
        raise DecodeError("bad seal: not base64 as it is written")
    return data
