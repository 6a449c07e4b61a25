"""The data keys of one key: made, opened, and kept for a while.

Nothing is encrypted by a key of the settings itself. Each process makes data keys under it, every
one for an hour or a million messages at most, so that a random nonce never comes twice, and so that
a key service is asked once an hour and not for each message.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Any

from cloudq.driver.advice import explain
from cloudq.driver.forks import renew_after_fork
from cloudq.driver.keys import Cipher, DataKey, KeyRefused, KeyService, key_bytes
from cloudq.driver.loader import open_keys
from cloudq.driver.values import Code
from cloudq.errors import CloudQError, DecodeError, KeyServiceError
from cloudq.messages.optional import library
from cloudq.text import describe, masked_url

LIFETIME = 3600.0
"""Seconds after which a data key encrypts no more, and is asked for again where it opens."""
MOST_MESSAGES = 1 << 20
"""The number of texts that one data key encrypts at most."""
MOST_KEPT = 1000
"""The number of data keys that are kept to open what others have encrypted."""
_SALT = 16
_MISSING = "there is no such key: check its id, the region and the account"


class DataKeys:
    """Data keys under the key `name`, whose `secret` is base64 of 32 bytes or a service's URL.

    Safe to use from many threads.
    """

    def __init__(
        self, name: str, secret: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._secret = secret
        self._monotonic = monotonic
        self._left: dict[str, int] = {}
        self._opened: OrderedDict[tuple[str, bytes], tuple[Cipher | str, float]] = OrderedDict()
        self._renew()
        renew_after_fork(self, DataKeys._renew)

    def _renew(self) -> None:
        """Begin without connections and data keys: those of a parent stay with it."""
        self._lock = RLock()
        self._service: KeyService | None = None
        self._making: dict[str, tuple[DataKey, Cipher, float]] = {}  # by app

    @property
    def is_of_service(self) -> bool:
        """Tell whether a key service has the key."""
        return "://" in self._secret

    @property
    def where(self) -> str:
        """Name the place of the key, without a secret."""
        return masked_url(self._secret) if self.is_of_service else "settings"

    def current(self, app: str) -> tuple[bytes, Cipher]:
        """Return a data key to encrypt with, wrapped, and its cipher. Raises `KeyServiceError`."""
        with self._lock:
            made = self._making.get(app)
            left = self._left.get(app, 0)
            if made is None or left <= 0 or self._monotonic() - made[2] >= LIFETIME:
                key = self._asked(lambda service: service.new_data_key(app), "make a data key")
                made = key, _cipher(key.plain), self._monotonic()
                self._making[app], left = made, MOST_MESSAGES
                self._keep((app, key.wrapped), made[1])
            self._left[app] = left - 1
            return made[0].wrapped, made[1]

    def opened(self, wrapped: bytes, app: str) -> Cipher:
        """Return the cipher of a wrapped data key. Raises `DecodeError`, `KeyServiceError`."""
        place = app, wrapped
        with self._lock:
            known = self._opened.get(place)
            if known is not None and self._monotonic() - known[1] < LIFETIME:
                found = known[0]
                self._opened.move_to_end(place)
            else:
                try:
                    plain = self._asked(
                        lambda service: service.open_data_key(wrapped, app), "open a data key"
                    )
                    found = _cipher(plain)
                except KeyRefused as error:  # kept, too: strangers must not make us ask for ever
                    found = f"bad seal: key {self.name!r} has not made its data key: {error}"
                except (DecodeError, KeyServiceError):
                    raise
                except Exception as error:  # no credentials, say: the message is not to blame
                    said = f"{self.where} cannot be used: {describe(error)}"
                    raise KeyServiceError(said, code=Code.CREDENTIALS) from error
                self._keep(place, found)
        if isinstance(found, str):
            raise DecodeError(found)
        return found

    def check(self) -> None:
        """Raise `KeyServiceError` where the key cannot be used."""
        with self._lock:
            self._asked(lambda service: service.check(), "use the key")

    def close(self) -> None:
        """Forget all data keys, and close the connections."""
        with self._lock:
            service, self._service = self._service, None
            self._making.clear()
            self._opened.clear()
        if service is not None:
            service.close()

    def _keep(self, place: tuple[str, bytes], cipher: Cipher | str) -> None:
        self._opened[place] = cipher, self._monotonic()
        self._opened.move_to_end(place)
        while len(self._opened) > MOST_KEPT:
            self._opened.popitem(last=False)

    def _asked(self, ask: Callable[[KeyService], Any], what: str) -> Any:
        if self._service is None:
            self._service = (
                open_keys(self._secret) if self.is_of_service else _OwnKey(key_bytes(self._secret))
            )
        try:
            return ask(self._service)
        except (CloudQError, KeyRefused):
            raise
        except Exception as error:
            code = self._service.error_code(error)
            tried = f"{what} with {self.name!r}, {self.where}"
            said = explain(tried, code, error, missing=_MISSING, driver=self._service)
            raise KeyServiceError(said, code=code) from error


class _OwnKey:
    """A key of the settings as a key service: a data key is derived, and its salt is sent."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def new_data_key(self, app: str) -> DataKey:
        """Derive a data key from a new salt."""
        salt = os.urandom(_SALT)
        return DataKey(plain=self._derived(salt, app), wrapped=salt)

    def open_data_key(self, wrapped: bytes, app: str) -> bytes:
        """Derive the data key of a salt."""
        if len(wrapped) != _SALT:
            raise KeyRefused(f"{len(wrapped)} bytes, where a salt of {_SALT} is expected")
        return self._derived(wrapped, app)

    def check(self) -> None:
        """Do nothing: the settings have been checked."""

    def error_code(self, error: Exception) -> Code:
        """Return no code: nothing is asked."""
        return Code.UNKNOWN

    def close(self) -> None:
        """Do nothing."""

    def _derived(self, salt: bytes, app: str) -> bytes:
        """Derive by HKDF-Expand (RFC 5869), whose first block has the 32 bytes."""
        import hashlib  # loads OpenSSL, which only encrypting processes need
        import hmac

        info = b"cloudq data key\n%b\n%b\x01" % (app.encode(), salt)
        return hmac.digest(self._key, info, hashlib.sha256)


def _cipher(key: bytes) -> Cipher:
    aead: Any = library("cryptography.hazmat.primitives.ciphers.aead", extra="crypto")
    return aead.AESGCM(key)
