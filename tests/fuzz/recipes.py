"""Recipes of bodies: what is in a body, and the layers around it, each of which can be spoilt.

What lies behind a compression, a signature or a seal is reached by changing it and packing it
again, with the app's own keys where these are needed.
"""

from __future__ import annotations

import base64
import bz2
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgpack
import zstandard

from cloudq.messages.compression import compress
from cloudq.messages.encryption import Encryption
from cloudq.messages.signing import Keyring
from tests.fuzz.bodies import KEYS

APP, QUEUE, CELERY = "fuzz", "default", "celery"
KEYRING = Keyring(keys=KEYS, signs="k1")
SECRETS = {"e1": base64.b64encode(b"e" * 32).decode(), "e2": base64.b64encode(b"f" * 32).decode()}
ENCRYPTION = Encryption(SECRETS, required=False)
REQUIRED = Encryption(SECRETS)
INNER = "@inner"
"""Stands in an event for the body in it, as text; with `64` behind it, as base64."""

Wire = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One body. What is set of the later fields stands in place of what the earlier ones make.

    `tree` is written in `notation`, or is `data`; compressed by `zip`, or `squeezed`. `kind` says
    what is around it: "bare", "enveloped", "signed", "encrypted", "both", "celery" or "event", and
    `fields` are what is in that, the tree of an event too, whose body is that of `inner`. `whole`
    is the body itself.
    """

    tree: Any = None
    notation: str = "json"
    data: bytes | None = None
    zip: str | None = None
    squeezed: bytes | None = None
    kind: str = "bare"
    fields: Mapping[str, Any] | None = None
    inner: Recipe | None = None
    whole: bytes | None = None

    def body(self) -> bytes:
        """Make the body."""
        if self.whole is not None:
            return self.whole
        fields = self.fields or {}
        if self.kind == "event":
            return self._event(fields)
        data = self.packed()
        if self.kind == "bare":
            return data
        if self.kind == "celery":
            outer = {**fields, "body": base64.b64encode(data).decode()}
            return base64.b64encode(text_of(outer))
        if self.kind in ("encrypted", "both"):
            rest = _encrypted(fields, data)
            return KEYRING.signed(rest, 4) if self.kind == "both" else b'{"v":4,' + rest
        head = text_of(fields)[1:-1]
        rest = b'%b%b"body":%b}' % (head, b"," if head else b"", self._text(data))
        return KEYRING.signed(rest) if self.kind == "signed" else b'{"v":2,' + rest

    def content(self) -> bytes:
        """Write the tree."""
        return self.data if self.data is not None else written(self.notation, self.tree)

    def packed(self) -> bytes:
        """Write the tree, and compress it."""
        if self.squeezed is not None:
            return self.squeezed
        data = self.content()
        return data if self.zip is None else compress(self.zip, data)

    def _text(self, data: bytes) -> bytes:
        if self.zip is None and self.notation == "json":
            return data
        if self.zip is None and self.notation == "yaml":
            return json.dumps(data.decode(errors="replace")).encode()
        return b'"%b"' % base64.b64encode(data)

    def _event(self, fields: Mapping[str, Any]) -> bytes:
        text = text_of(fields)
        if self.inner is None:
            return text
        body = self.inner.body()
        text = text.replace(b'"%b64"' % INNER.encode(), b'"%b"' % base64.b64encode(body))
        return text.replace(
            b'"%b"' % INNER.encode(), json.dumps(body.decode(errors="replace")).encode()
        )


_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def text_of(tree: Any) -> bytes:
    """Write JSON, with what only Python's writer has: NaN, halves of surrogates, huge numbers."""
    try:
        return _ENCODER.encode(tree).encode()
    except (ValueError, RecursionError):
        return b"[" * 5000


def written(notation: str, tree: Any) -> bytes:
    """Write a tree. JSON is YAML too, of which the mutator has the other signs."""
    if notation != "msgpack":
        return text_of(tree)
    try:
        return msgpack.packb(tree, unicode_errors="surrogatepass")
    except (ValueError, OverflowError, TypeError):
        return b"\xdd\xff\xff\xff\xff" + text_of(tree)[:200]


def _encrypted(fields: Mapping[str, Any], data: bytes) -> bytes:
    named = fields.get("app")
    app = named if isinstance(named, str) else APP
    try:
        return ENCRYPTION.sealed(app, fields, data)
    except Exception:  # a header that only a stranger writes: it cannot be sealed
        head = text_of(fields)[1:-1]
        return b'%b,"body":"%b"}' % (head, base64.b64encode(b"n" * 12 + data + b"t" * 16))


# ---- bombs


@cache
def bombs(limit: int) -> tuple[tuple[str, bytes], ...]:
    """Make compressed data that opens to the limit, around it, and far beyond it."""
    plain = [
        b'{"v":1,"id":"b","task":"echo","args":["' + b"x" * (limit - 60) + b'"]}',
        b"[" * limit,
        b"[],\n" * (limit // 4),
        b"0," * (limit // 2),
        b'{"v":1,"id":"b","task":"echo","args":[' + b"[]," * (limit // 3 - 30) + b"[]]}",
        b'{"v":1,"id":"b","task":"echo","args":["' + b"x" * limit * 2 + b'"]}',
        b" " * (limit * 64),
        b"\x91" * limit,
        b"\xdd\x00\x0f\xff\xff" + b"\xc0" * limit,
        b"- " * (limit // 2),
        b"a: &a [*a,*a]\n" * 1000,
    ]
    made = [(name, compress(name, each)) for each in plain for name in ("zlib", "bz2", "zstd")]
    twice = zlib.compress(zlib.compress(b"\0" * limit * 64))
    sizes = (1 << 63, (1 << 40), limit, 0)
    lies = [
        ("zstd", b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00")
        for size in sizes
    ]
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    wider = zstandard.ZstdCompressor(compression_params=wide)
    return (
        *made,
        ("zlib", twice),
        *lies,
        ("zstd", wider.compress(b"\0" * limit)),
        ("bz2", bz2.compress(b"") * 3000),
        ("zlib", zlib.compress(b"[]")[:-4]),
    )
