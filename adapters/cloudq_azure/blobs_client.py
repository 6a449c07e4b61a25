"""Makes a client of one container of Blob storage from a URL."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any, NamedTuple

import requests
from azure.storage.blob import ContainerClient, ExponentialRetry
from requests.adapters import HTTPAdapter

from cloudq.driver import Address
from cloudq.driver.billing import DELETE, GET, OTHER, PUT, QUERY, Meter
from cloudq.errors import ConfigurationError
from cloudq_azure.answers import Believed, of_blobs
from cloudq_azure.identity import Identity
from cloudq_azure.prices import BLOB_STORAGE

PART = 8 << 20
"""The bytes of a part that is sent."""

_OPTIONS = ("endpoint",)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"[a-z0-9]([a-z0-9]|-(?!-)){1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_KEY = re.compile(r"/([a-z]{1,16})/[A-Za-z0-9_-]{1,64}/[0-9a-f]{32}(\?|$)")
# Microsoft's emulator has this account, and one key that is in every SDK.
_EMULATED = "devstoreaccount1"
_EMULATOR = "UseDevelopmentStorage=true"
_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"

# One thread a request in flight; `requests` keeps 10 and logs a warning for each one beyond.
_CONNECTIONS = 64
# The bytes of a request that reads.
_READ = 4 << 20
# Seconds, and tries beside the first: the SDK's own would go on for minutes.
_CONNECT_TIMEOUT, _READ_TIMEOUT = 3, 20
_RETRIES = 3


class Place(NamedTuple):
    """A container, the prefix of all keys in it, and the meter of its requests."""

    client: ContainerClient
    prefix: str
    meter: Meter


def connect(address: Address) -> Place:
    """Read the URL and find credentials. Raises `ConfigurationError`; sends no request."""
    unknown = [name for name in address.options if name not in _OPTIONS]
    if unknown:
        raise ConfigurationError(
            f"azblob:// has no option {unknown[0]!r}; it knows {', '.join(_OPTIONS)}"
        )
    container, _, prefix = address.path.strip("/").partition("/")
    if not _ACCOUNT.fullmatch(address.host) or not _CONTAINER.fullmatch(container):
        raise ConfigurationError(
            f"{address.url or 'azblob://'} names no account and container: write"
            " azblob://myaccount/cloudq/payloads (a container: small letters, digits and dashes)"
        )
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"{address.url}: a prefix is of letters, digits, - _ . and /")
    meter = Meter(BLOB_STORAGE)
    return Place(_client(address, container, meter), prefix and f"{prefix}/", meter)


def _client(address: Address, container: str, meter: Meter) -> ContainerClient:
    endpoint, credential = _reach(address, container)
    if isinstance(credential, Identity) and not endpoint.startswith("https:"):
        raise ConfigurationError(
            f"{address.url}: tokens go over https only; for another endpoint set {_VARIABLE}"
        )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    timeouts: dict[str, Any] = {
        "connection_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
    }
    # A session from the start: the SDK's own is made by the first request, of two threads perhaps.
    transport = Believed(of_blobs, sent=partial(_count, meter), session=session, **timeouts)
    return ContainerClient(
        endpoint,
        container,
        credential=credential,
        transport=transport,
        retry_policy=ExponentialRetry(
            initial_backoff=0, increment_base=1, retry_total=_RETRIES, random_jitter_range=1
        ),
        max_single_put_size=PART,
        max_single_get_size=_READ,
        max_chunk_get_size=_READ,
        **timeouts,
    )


def _count(meter: Meter, request: Any) -> None:
    """Count a request, or a try of one, by the kind of its blob where the URL names that."""
    found = _KEY.search(request.url)
    call = {"PUT": PUT, "GET": GET if found else QUERY, "DELETE": DELETE}.get(request.method, OTHER)
    meter.count(call, found[1] if found else "", items=1)


def _reach(address: Address, container: str) -> tuple[str, Any]:
    """The endpoint, and the credential that opens it."""
    given = address.options.get("endpoint", "")
    text = _EMULATOR if address.host == _EMULATED else os.environ.get(_VARIABLE)
    if not text:
        return given or f"https://{address.host}.blob.core.windows.net", Identity(_VARIABLE)
    try:
        parsed = ContainerClient.from_connection_string(text, container)
    except ValueError as error:
        raise ConfigurationError(f"{_VARIABLE} is no connection string: {error}") from error
    with parsed:
        if parsed.account_name != address.host:
            raise ConfigurationError(
                f"{_VARIABLE} is of the account {parsed.account_name}, and {address.url} of"
                f" {address.host}"
            )
        whole, _, signature = parsed.url.partition("?")
        credential: Any = parsed.credential
    if credential is None and not signature:
        raise ConfigurationError(f"{_VARIABLE} has neither a key nor a shared access signature")
    endpoint = given or whole.removesuffix(f"/{container}")
    return f"{endpoint}?{signature}" if signature else endpoint, credential
