"""Google's Cloud KMS as a key service: `gcpkms://PROJECT/LOCATION/KEYRING/KEY?endpoint=HOST`.

The address may be the key's whole name, `gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K`.
A data key is made here and encrypted there, by the key's primary version; its app is the additional
authenticated data. `emulator=HOST:PORT` is a local stand-in. Needed are
`cloudkms.cryptoKeyVersions.useToEncrypt` and `useToDecrypt` on the key
(`roles/cloudkms.cryptoKeyEncrypterDecrypter`).
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
from typing import Any

from google.api_core import exceptions as sdk
from google.api_core.retry import Retry, if_exception_type
from google.cloud.kms_v1 import KeyManagementServiceClient

from cloudq.driver import Address, Code
from cloudq.driver.keys import DataKey, KeyRefused
from cloudq.errors import ConfigurationError
from cloudq_gcp.client import Channel, access, client
from cloudq_gcp.crc32c import crc32c
from cloudq_gcp.errors import GcpError, error_code, incomplete
from cloudq_gcp.kms_names import key_name

# Bytes that the service takes to be decrypted; what encrypts a data key has about 130.
_LONGEST = 65_536
# Seconds for a request, and for all its tries.
_TIMEOUT, _TRYING = 5.0, 8.0
_AGAIN = Retry(
    predicate=if_exception_type(sdk.ServiceUnavailable), initial=0.1, maximum=1.0, timeout=_TRYING
)
# The service's words for a request whose bytes are not those that its checksum is of.
_DAMAGED = re.compile("checksum|crc32c", re.IGNORECASE)
_DISABLED = "the key's version is disabled or destroyed: enable or restore it"


class CloudKms:
    """One key of Cloud KMS, whose purpose is ENCRYPT_DECRYPT."""

    def __init__(self, channel: Channel, host: str, key: str) -> None:
        self._channel = channel
        self._client: Any = client(KeyManagementServiceClient, channel, host)
        self._key = key

    def new_data_key(self, app: str) -> DataKey:
        """Make a data key, bound to the name of an app."""
        plain, bound = os.urandom(32), _bound(app)
        request = {
            "name": self._key,
            "plaintext": plain,
            "plaintext_crc32c": crc32c(plain),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": crc32c(bound),
        }
        made = self._client.encrypt(request=request, retry=_AGAIN, timeout=_TIMEOUT)
        wrapped: bytes = made.ciphertext
        if not made.name.startswith(f"{self._key}/cryptoKeyVersions/"):
            raise incomplete("the name of this key's version")
        if not (
            made.verified_plaintext_crc32c and made.verified_additional_authenticated_data_crc32c
        ):
            raise _damaged("the service has not verified what it has encrypted")
        if not wrapped or _checksum(made, "ciphertext_crc32c") != crc32c(wrapped):
            raise _damaged("the checksum of what is encrypted is another")
        return DataKey(plain=plain, wrapped=wrapped)

    def open_data_key(self, wrapped: bytes, app: str) -> bytes:
        """Return a data key in its wrapped form. Raises `KeyRefused`."""
        if not 0 < len(wrapped) <= _LONGEST:
            raise KeyRefused(f"{len(wrapped)} bytes, where Cloud KMS takes 1 to {_LONGEST:,}")
        bound = _bound(app)
        request = {
            "name": self._key,
            "ciphertext": wrapped,
            "ciphertext_crc32c": crc32c(wrapped),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": crc32c(bound),
        }
        try:
            made = self._client.decrypt(request=request, retry=_AGAIN, timeout=_TIMEOUT)
        except sdk.InvalidArgument as error:
            if _DAMAGED.search(str(error)):
                raise _damaged(str(error)) from error
            raise KeyRefused("INVALID_ARGUMENT: it does not decrypt") from error
        plain: bytes = made.plaintext
        if _checksum(made, "plaintext_crc32c") != crc32c(plain):
            raise _damaged("the checksum of what is decrypted is another")
        if len(plain) != 32:
            raise KeyRefused(f"a key of {len(plain)} bytes, where 32 are expected")
        return plain

    def check(self) -> None:
        """Make a data key, and open it."""
        made = self.new_data_key("cloudq keys check")
        if self.open_data_key(made.wrapped, "cloudq keys check") != made.plain:
            raise ConfigurationError("Cloud KMS opens another data key than it was given")

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return Code.DENIED if isinstance(error, sdk.FailedPrecondition) else error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        return _DISABLED if isinstance(error, sdk.FailedPrecondition) else None

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def open_keys(address: Address) -> CloudKms:
    """Open a key by its URL. Raises `ConfigurationError`."""
    name = key_name(address)
    reach = access(address, emulator_variable="CLOUD_KMS_EMULATOR_HOST", needs_project=False)
    host = reach.emulator or reach.endpoint or KeyManagementServiceClient.DEFAULT_ENDPOINT
    return CloudKms(reach.channel(host, plain=reach.emulator is not None), host, name)


def _bound(app: str) -> bytes:
    return b"cloudq " + app.encode()


def _checksum(made: Any, name: str) -> int | None:
    """Read a checksum, which is missing in an answer that was cut."""
    found: int | None = getattr(made, name)
    return found


def _damaged(why: str) -> GcpError:
    return GcpError(f"damaged on the way: {why}", code=Code.UNREACHABLE)
