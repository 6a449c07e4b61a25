"""AWS KMS as a key service: `awskms://KEY-ID?region=eu-central-1`.

The host and path are a key's id, its ARN, or an alias (`awskms://alias/shop`). A data key is bound
to its app by KMS's encryption context, which CloudTrail shows.
"""

from __future__ import annotations

from typing import Any, cast

from cloudq.driver import Address, Code
from cloudq.driver.keys import DataKey, KeyRefused
from cloudq.errors import ConfigurationError
from cloudq_aws.answers import told
from cloudq_aws.client import access
from cloudq_aws.errors import advice, error_code, response_of

# The answers of which no other try gets a better one.
_REFUSED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_CODES = {
    "NotFoundException": Code.NOT_FOUND,
    "DisabledException": Code.DENIED,
    "KMSInvalidStateException": Code.DENIED,
    "InvalidKeyUsageException": Code.INVALID,
    "InvalidArnException": Code.INVALID,
    "KeyUnavailableException": Code.UNREACHABLE,
    "DependencyTimeoutException": Code.UNREACHABLE,
    "KMSInternalException": Code.UNREACHABLE,
}
_ADVICE = {
    "DisabledException": "the key is disabled: enable it",
    "KMSInvalidStateException": "the key cannot be used as it is: is it to be deleted?",
}


class Kms:
    """One key of AWS KMS, of the kind SYMMETRIC_DEFAULT."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key

    def new_data_key(self, app: str) -> DataKey:
        """Make a data key, bound to the name of an app."""
        made = self._client.generate_data_key(
            KeyId=self._key, KeySpec="AES_256", EncryptionContext=_context(app)
        )
        return DataKey(plain=told(made, "Plaintext"), wrapped=told(made, "CiphertextBlob"))

    def open_data_key(self, wrapped: bytes, app: str) -> bytes:
        """Return a data key in its wrapped form. Raises `KeyRefused`."""
        if not 0 < len(wrapped) <= 6144:
            raise KeyRefused(f"{len(wrapped)} bytes, where KMS takes 1 to 6,144")
        try:
            made = self._client.decrypt(
                KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=_context(app)
            )
        except Exception as error:
            if (name := _name(error)) in _REFUSED:
                raise KeyRefused(name) from error
            raise
        plain: bytes = told(made, "Plaintext")
        if len(plain) != 32:
            raise KeyRefused(f"a key of {len(plain)} bytes, where 32 are expected")
        return plain

    def check(self) -> None:
        """Make a data key, and open it."""
        made = self.new_data_key("cloudq keys check")
        if self.open_data_key(made.wrapped, "cloudq keys check") != made.plain:
            raise ConfigurationError("KMS opens another data key than it has made")

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return _CODES.get(_name(error)) or error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        return _ADVICE.get(_name(error)) or advice(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def open_keys(address: Address) -> Kms:
    """Open a key by its URL. Raises `ConfigurationError`."""
    key = "/".join(filter(None, (address.host, address.path)))
    if not key:
        raise ConfigurationError("awskms:// needs a key: awskms://KEY-ID, or awskms://alias/NAME")
    region = key.split(":")[3] if key.startswith("arn:") and key.count(":") >= 5 else ""
    found = access(address, region=region)
    return Kms(cast("Any", found.client("kms")), key)


def _context(app: str) -> dict[str, str]:
    return {"cloudq": app}


def _name(error: Exception) -> str:
    response = response_of(error)
    return "" if response is None else str(response.get("Error", {}).get("Code", ""))
