"""Requests to the JSON API of Cloud Storage, tried again where that may help.

The library for it is large, and copies what it sends: five kinds of requests need none.
"""

# google-auth and requests are typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

import requests
from google.api_core import exceptions as sdk
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter

from cloudq.clock import Backoff
from cloudq.driver import Address
from cloudq.driver.billing import Meter
from cloudq.errors import ConfigurationError
from cloudq_gcp.client import access
from cloudq_gcp.errors import incomplete
from cloudq_gcp.prices import CLOUD_STORAGE
from cloudq_gcp.rest import error_in

_HOST = "storage.googleapis.com"
_URL = re.compile(r"(https?://)?[A-Za-z0-9.-]+(:[0-9]+)?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
# One thread a request in flight; `requests` keeps 10 and logs a warning for each one beyond.
_CONNECTIONS = 64
# Seconds: for a connection, and in which the other side may be silent.
_TIMEOUT = (4.0, 30.0)
# Tries of a request, the first included, and the pauses between them.
_TRIES, _PAUSE, _LONGEST_PAUSE = 4, 0.1, 2.0
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
# Statuses that the SDK has no class for, and those of the same meaning that it has one for.
_STATUSES = {408: 503, 412: 409}
NOT_FOUND = 404


class Storage:
    """One bucket of Cloud Storage. Safe to use from many threads."""

    def __init__(self, session: Any, base: str, *, bucket: str, project: str) -> None:
        self.meter = Meter(CLOUD_STORAGE)
        self.bucket = f"{base}/storage/v1/b/{bucket}"
        self.buckets = f"{base}/storage/v1/b"
        self.uploads = f"{base}/upload/storage/v1/b/{bucket}/o"
        self.project = project
        self._downloads = f"{base}/download/storage/v1/b/{bucket}/o"
        self._session = session

    def object(self, name: str, *, content: bool = False) -> str:
        """The URL of an object, or of its content."""
        return f"{self._downloads if content else self.bucket + '/o'}/{quote(name, safe='')}"

    def send(
        self,
        method: str,
        url: str,
        *,
        call: str,
        place: str = "",
        tries: int = _TRIES,
        **options: Any,
    ) -> requests.Response:
        """Send a request, again where it may help, and return an answer that is no trouble of one.

        It is the caller's to say of which statuses it makes an error, but those that pass.
        """
        for pause in Backoff(_PAUSE, _LONGEST_PAUSE).pauses(tries):
            self.meter.count(call, place, items=1)
            try:
                answer = self._session.request(
                    method, url, timeout=_TIMEOUT, allow_redirects=False, **options
                )
            except requests.RequestException as error:
                trouble: Exception = sdk.ServiceUnavailable(str(error))
                trouble.__cause__ = error
            else:
                if answer.status_code not in _AGAIN:
                    return answer
                trouble = error_of(answer)
                answer.close()
            tries -= 1
            if not tries:
                raise trouble
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Send a request whose answer is an object of JSON. Raises the SDK's errors, `GcpError`."""
        answer = self.send(method, url, **options)
        if not answer.ok:
            raise error_of(answer)
        return told(answer)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def told(answer: requests.Response) -> dict[str, Any]:
    """Return the object in an answer. Raises `GcpError`."""
    try:
        read: Any = answer.json()
    except (ValueError, RecursionError) as error:
        raise incomplete("its JSON") from error
    if not isinstance(read, dict):
        raise incomplete("its object")
    return cast("dict[str, Any]", read)


def is_gone(answer: requests.Response) -> bool:
    """Tell whether an answer with 404 says that an object is missing, and not that its bucket is.

    That of a download is text, and Google's own.
    """
    text = str(error_in(answer).get("message") or answer.text).strip()
    return not text or text.startswith("No such object")


def error_of(answer: requests.Response) -> sdk.GoogleAPICallError:
    """Return the error that an answer is."""
    text = str(error_in(answer).get("message") or answer.text[:200].strip() or answer.reason)
    if answer.status_code == NOT_FOUND and "<" in text:  # a page of somebody in between
        return sdk.ServiceUnavailable(f"the answer is not the service's: {text[:60]!r}")
    status = _STATUSES.get(answer.status_code, answer.status_code)
    return sdk.from_http_status(status, text, response=answer)


def connect(address: Address) -> tuple[Storage, str]:
    """Read the URL, find credentials, and return the bucket and the prefix of all keys.

    Raises `ConfigurationError`; sends no request.
    """
    if not _BUCKET.fullmatch(address.host):
        raise ConfigurationError(
            f"{address.url or 'gs://'} names no bucket: write gs://my-bucket/payloads"
        )
    prefix = address.path.strip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"{address.url}: a prefix is of letters, digits, - _ . and /")
    reach = access(
        address,
        options=("location", "project"),
        emulator_variable="STORAGE_EMULATOR_HOST",
        needs_project=False,
    )
    plain = reach.emulator is not None
    base = _base(reach.emulator or reach.endpoint or _HOST, plain=plain)
    session = requests.Session() if plain else AuthorizedSession(reach.credentials)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    bucket = Storage(session, base, bucket=address.host, project=reach.project)
    return bucket, prefix and f"{prefix}/"


def _base(host: str, *, plain: bool) -> str:
    """Return the URL of a host, which may be written as one already."""
    host = host.rstrip("/")
    if not _URL.fullmatch(host) or (host.startswith("http://") and not plain):
        raise ConfigurationError(
            f"{host!r} is no host of Cloud Storage: write endpoint=HOST, or emulator=HOST:PORT"
        )
    return host if "://" in host else f"{'http' if plain else 'https'}://{host}"


Fields = Mapping[str, Any]
"""The members of an answer."""
