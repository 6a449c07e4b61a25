"""Makes a client of one table from a backend's URL."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any, cast

import requests
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential, TokenCredential
from azure.data.tables import TableClient
from requests.adapters import HTTPAdapter

from cloudq.driver import Address
from cloudq.driver.billing import DELETE, GET, PUT, QUERY, Meter
from cloudq.errors import ConfigurationError
from cloudq_azure.answers import Believed, of_tables
from cloudq_azure.identity import Identity
from cloudq_azure.prices import TABLES

_Credential = AzureNamedKeyCredential | AzureSasCredential | TokenCredential

_OPTIONS = ("endpoint",)
# The kind of item, which stands behind the hash in a `PartitionKey`.
_ENTITY = re.compile(r"PartitionKey='[0-9a-f]{4}(?::|%3A)([A-Za-z]*)")
_CALLS = {"GET": GET, "DELETE": DELETE}
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9-]{2,43}")  # with dashes on Cosmos DB
_TABLE = re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}")
# Microsoft's emulator has this account, and one key that is in every SDK.
_EMULATED = "devstoreaccount1"
_EMULATOR = "UseDevelopmentStorage=true"
_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"

# One thread a request in flight; `requests` keeps 10 and logs a warning for each one beyond.
_CONNECTIONS = 64
# Seconds, and tries beside the first: the SDK's own would go on for minutes.
_CONNECT_TIMEOUT, _READ_TIMEOUT = 3, 10
_RETRIES, _CONNECT_RETRIES = 2, 1


def connect(address: Address) -> tuple[TableClient, Meter]:
    """Read the URL and find credentials; return a client, and the meter of its requests.

    Raises `ConfigurationError`; sends no request.
    """
    unknown = [name for name in address.options if name not in _OPTIONS]
    if unknown:
        raise ConfigurationError(
            f"aztables:// has no option {unknown[0]!r}; it knows {', '.join(_OPTIONS)}"
        )
    if not _ACCOUNT.fullmatch(address.host) or not _TABLE.fullmatch(address.path):
        raise ConfigurationError(
            f"{address.url or 'aztables://'} names no account and table: a table is written"
            " aztables://myaccount/cloudq (letters and digits, 3 to 63 of them)"
        )
    endpoint, credential = _reach(address)
    if isinstance(credential, Identity) and not endpoint.startswith("https:"):
        raise ConfigurationError(
            f"{address.url}: tokens go over https only; for another endpoint set {_VARIABLE}"
        )
    session = requests.Session()
    for prefix in ("http://", "https://"):
        session.mount(prefix, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    # A session from the start: the SDK's own is made by the first request, of two threads perhaps.
    meter = Meter(TABLES)
    client = TableClient(
        endpoint,
        address.path,
        credential=credential,
        transport=Believed(of_tables, sent=partial(_count, meter), session=session),
        connection_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        retry_total=_RETRIES,
        retry_connect=_CONNECT_RETRIES,
        retry_backoff_factor=0.2,
        retry_backoff_max=1,
    )
    return client, meter


def _count(meter: Meter, request: Any) -> None:
    """Count a request, or a try of one, by the kind of its entity where the URL names that."""
    found = _ENTITY.search(request.url)
    call = _CALLS.get(request.method, PUT)
    if call == GET and found is None:
        call = QUERY
    meter.count(call, found[1] if found else "", items=1)


def _reach(address: Address) -> tuple[str, _Credential]:
    """The endpoint, and the credential that opens it."""
    given = address.options.get("endpoint", "")
    text = _EMULATOR if address.host == _EMULATED else os.environ.get(_VARIABLE)
    if not text:
        return given or f"https://{address.host}.table.core.windows.net", Identity(_VARIABLE)
    try:
        parsed = TableClient.from_connection_string(text, address.path)
    except ValueError as error:
        raise ConfigurationError(f"{_VARIABLE} is no connection string: {error}") from error
    with parsed:
        if parsed.account_name != address.host:
            raise ConfigurationError(
                f"{_VARIABLE} is of the account {parsed.account_name}, and {address.url} of"
                f" {address.host}"
            )
        endpoint = given or parsed.url.rstrip("?")
        credential = cast("_Credential | None", parsed.credential)
    if credential is None:
        raise ConfigurationError(f"{_VARIABLE} has neither a key nor a shared access signature")
    return endpoint, credential
