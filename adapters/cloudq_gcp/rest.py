"""Requests by HTTP/1.1, for processes that were forked from one that used gRPC, and cannot.

gRPC's library has threads and locks of its own. A process that is forked while they are at work
has the locks, some of them held, and not the threads: calls there can wait for ever, on new
channels too. Google's APIs answer the same requests, in JSON, to clients that need no such thing.
"""

# google-auth and requests are typed in part only, and grpc not at all.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import grpc
import requests
from google.api_core import exceptions as sdk
from google.auth.credentials import AnonymousCredentials
from requests.adapters import HTTPAdapter

_SCHEMES = ("http", "https")
# One thread a request in flight; `requests` keeps 10 and logs a warning for each one beyond.
_CONNECTIONS = 64
# Seconds: for a connection, and for an answer beyond the time that the server has for it.
_CONNECT, _MARGIN = 4.0, 1.0
# This one the session answers itself, by another try with a fresh token.
_UNAUTHORIZED = 401
_IN_PARTS = (":batchGet", ":runQuery")
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class Rest:
    """Stands where a channel of gRPC would; `plain` without TLS and credentials."""

    def __init__(self, host: str, credentials: Any, *, plain: bool) -> None:
        self._host = host
        self._credentials = AnonymousCredentials() if plain else credentials
        self._scheme = _SCHEMES[not plain]
        self._transports: list[Any] = []

    def transport(self, kind: Any) -> Any:
        """A transport of this kind, safe from many threads; its errors are those of gRPC's."""
        transport = kind(host=self._host, credentials=self._credentials, url_scheme=self._scheme)
        transport._session.mount(f"{self._scheme}://", _Answers(pool_maxsize=_CONNECTIONS))
        self._transports.append(transport)
        return transport

    def close(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            transport.close()


class _Answers(HTTPAdapter):
    """Raises, in place of an answer that is an error, what gRPC would have raised."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        if isinstance(timeout, int | float):
            # Else the server goes on when nobody waits any more, and leases messages to nobody.
            request.headers["X-Server-Timeout"] = f"{timeout:g}"
            timeout = (min(timeout, _CONNECT), timeout + _MARGIN)
        try:
            response = super().send(request, stream, timeout, verify, cert, proxies)
            text = response.text.strip()  # read here: its errors are of the request
        except requests.ReadTimeout as error:
            raise sdk.DeadlineExceeded(str(error)) from error
        except requests.RequestException as error:
            raise sdk.ServiceUnavailable(str(error)) from error
        if not response.ok and response.status_code != _UNAUTHORIZED:
            raise _error(response)
        if response.ok and not _is_answer(text, str(request.url)):
            raise sdk.ServiceUnavailable(
                f"the answer is cut or not the service's: {text[:60]!r}", response=response
            )
        # Of an answer in parts the SDK asks for each byte, and bears no line end behind the last.
        cast("Any", response).iter_content = partial(_whole, text)
        return response


def _is_answer(text: str, url: str) -> bool:
    """Tell whether a text is what all of Google's answers are; one in parts is a list."""
    kind = list if url.partition("?")[0].endswith(_IN_PARTS) else dict
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def _whole(text: str, chunk_size: int = 1, decode_unicode: bool = False) -> Iterator[Any]:
    if text:
        yield text if decode_unicode else text.encode()


def _error(response: requests.Response) -> sdk.GoogleAPICallError:
    told = error_in(response)
    text = str(told.get("message") or response.reason or "no reason was given")
    given: Any = told.get("details")
    details = (
        [each for each in cast("list[Any]", given) if isinstance(each, dict)]
        if (isinstance(given, list))
        else []
    )
    info = next((each for each in details if _tells(each)), None)
    more: dict[str, Any] = {"details": details, "error_info": info, "response": response}
    status = grpc.StatusCode.__members__.get(str(told.get("status")))
    if not told and response.status_code == requests.codes.not_found:  # no such method
        return sdk.MethodNotImplemented(text, **more)
    if status is None:  # of something in between
        return sdk.from_http_status(response.status_code, text, **more)
    return sdk.from_grpc_status(status, text, **more)


def _tells(detail: dict[str, Any]) -> bool:
    """Tell whether a detail of an error is about single leases of a batch."""
    return detail.get("@type") == _ERROR_INFO and isinstance(detail.get("metadata", {}), dict)


def error_in(response: requests.Response) -> dict[str, Any]:
    """Return the error in an answer, {} for none; an answer of many parts is a list."""
    try:
        told: Any = response.json()
    except ValueError:
        return {}
    if isinstance(told, list):
        told = told[0] if told else {}
    error = told.get("error") if isinstance(told, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}
