"""The identity of this machine, function or user, and one line where there is none."""

from __future__ import annotations

import logging
import re
from typing import Any

from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential

# What Microsoft Entra ID refuses has a number; the rest of the SDK's text is a page long.
_REFUSAL = re.compile(r"AADSTS\d+: [^\r\n]*?\.(?=\s|$)")
_NOBODY = (
    "run `az login`, set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET,{or_} give the"
    " machine or function a managed identity"
)
_INSTEAD = ", or set {variable} to a connection string"

# The SDK logs that page before it raises. A program without logging of its own would see it on its
# standard error, beside the one clear line that it gets from us.
logging.getLogger("azure").addHandler(logging.NullHandler())


class Identity(DefaultAzureCredential):
    """Azure's own chain of identities; `variable` names the keys that can replace them, if any."""

    def __init__(self, variable: str | None = None) -> None:
        super().__init__()
        self._variable = variable

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        """Return a token, as the SDK does. Raises `ClientAuthenticationError` with what to do."""
        try:
            return super().get_token(*scopes, **kwargs)
        except ClientAuthenticationError as error:
            raise self._shortened(error) from error

    def get_token_info(self, *scopes: str, **kwargs: Any) -> AccessTokenInfo:
        """Return a token, as the SDK does. Raises `ClientAuthenticationError` with what to do."""
        try:
            return super().get_token_info(*scopes, **kwargs)
        except ClientAuthenticationError as error:
            raise self._shortened(error) from error

    def _shortened(self, error: ClientAuthenticationError) -> ClientAuthenticationError:
        refused = _REFUSAL.search(str(error))
        return ClientAuthenticationError(message=refused.group() if refused else self._nobody())

    def _nobody(self) -> str:
        if self._variable is None:
            return _NOBODY.format(or_=" or")
        return _NOBODY.format(or_="") + _INSTEAD.format(variable=self._variable)
