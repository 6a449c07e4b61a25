"""Signs envelopes by HMAC-SHA256 under one of several keys, and verifies them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import field

from cloudq.driver.immutable import immutable
from cloudq.errors import DecodeError

KEY_ID = r"[A-Za-z0-9._-]{1,64}"
SHORTEST_KEY = 32  # characters, as long as the hash of HMAC-SHA256
_SIGNED = rb'\{"v":([24]),"key":"(' + KEY_ID.encode() + rb')","sig":"([A-Za-z0-9_-]{43})",'


@immutable
class Keyring:
    """The keys whose signatures are accepted, by their ids, and the id of the key that signs."""

    keys: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    signs: str | None = None

    def signed(self, rest: bytes, version: int = 2) -> bytes:
        """Make a signed envelope of `rest`, the text of its fields up to the closing brace."""
        assert self.signs is not None  # only a codec with a key signs
        signature = self._signature(self.signs, rest, version)
        return b'{"v":%d,"key":"%b","sig":"%b",%b' % (version, self.signs.encode(), signature, rest)

    def verified(self, body: bytes) -> bytes | None:
        """Verify the signature of an envelope, and return what follows; None where it has none.

        Reads nothing of the content. Raises `DecodeError` for a wrong signature.
        """
        found = re.match(_SIGNED, body)
        if found is None:
            return None
        version, name, signature = int(found[1]), found[2].decode(), found[3]
        if name not in self.keys:
            raise DecodeError(f"bad signature: key {name!r} is not among this app's signing_keys")
        rest = body[found.end() :]
        if not _same(signature, self._signature(name, rest, version)):
            raise DecodeError(f"bad signature: it is not that of key {name!r}")
        return rest

    def _signature(self, name: str, rest: bytes, version: int = 2) -> bytes:
        import hashlib  # loads OpenSSL, which only signing processes need
        import hmac

        text = b"cloudq %d\n%b\n%b" % (version, name.encode(), rest)
        digest = hmac.digest(self.keys[name], text, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=")

    # ---- what is stored to be sent later

    def seal(self, app: str, place: str, text: str) -> str:
        """Sign a text for its place in the store: `key app signature`."""
        assert self.signs is not None  # only a codec with a key signs
        signature = self._signature(self.signs, _stored(app, place, text))
        return f"{self.signs} {app} {signature.decode()}"

    def sealed_by(self, seal: str, place: str, text: str) -> str:
        """Return the name of the app that signed a text. Raises `DecodeError`."""
        key, _, rest = seal.partition(" ")
        app, _, signature = rest.rpartition(" ")
        if key not in self.keys:
            raise DecodeError(f"bad signature: key {key!r} is not among this app's signing_keys")
        right = self._signature(key, _stored(app, place, text))
        if not _same(signature.encode(errors="replace"), right):
            raise DecodeError(f"bad signature of {place}: it is not that of key {key!r}")
        return app


def _same(given: bytes, right: bytes) -> bool:
    """Compare in a time that tells nothing of where two signatures differ."""
    import hmac

    return hmac.compare_digest(given, right)


def _stored(app: str, place: str, text: str) -> bytes:
    # What JSON cannot have, a text of Python may: half of a surrogate pair.
    return f"stored\n{app}\n{place}\n{text}".encode(errors="surrogatepass")
