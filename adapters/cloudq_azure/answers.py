"""Refuses answers over HTTP that are not Azure's: a proxy's page, an error without its code.

The SDKs believe the status: of a page with 404 that an entity or a queue is not there, with 409
that it is, and of one with 200 that a list is empty.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import orjson
from azure.core.exceptions import ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport
from requests import RequestException, Response

from cloudq_azure.errors import SHAPELESS, incomplete

# What Service Bus's administration sends, after a declaration of XML.
_ATOM = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:\w+:)?(?:feed|entry)\b")
# Statuses that say how things are, and not only that a request has failed; 202 has many parts.
_OF_TABLES = frozenset({200, 202, 404, 409, 412})
_OF_QUEUES = frozenset({200, 201})
_OF_VAULTS = frozenset({200, 400, 404})
_OF_BLOBS = frozenset({200, 201, 202, 206, 404, 409, 412, 416})


def of_tables(answer: Response) -> bool:
    """Tell whether an answer can be that of Table storage."""
    if answer.status_code not in _OF_TABLES or "x-ms-error-code" in answer.headers:
        return True
    if answer.status_code == 202:
        return answer.content.lstrip().startswith(b"--")
    read = _read(answer.content)
    if answer.status_code == 200:
        return isinstance(read, dict)
    error: object = read.get("odata.error") if read else None
    return isinstance(error, dict) and "code" in cast("dict[str, Any]", error)


def of_blobs(answer: Response) -> bool:
    """Tell whether an answer can be that of Blob storage, whose content is anybody's."""
    return answer.status_code not in _OF_BLOBS or "x-ms-request-id" in answer.headers


def of_vault(answer: Response) -> bool:
    """Tell whether an answer can be that of Key Vault."""
    if answer.status_code not in _OF_VAULTS:
        return True
    read = _read(answer.content) or {}
    if answer.status_code == 200:
        return isinstance(read.get("kid"), str) and isinstance(read.get("value"), str)
    return isinstance(read.get("error"), dict)


def of_queues(answer: Response) -> bool:
    """Tell whether an answer can be that of Service Bus's administration."""
    if answer.status_code not in _OF_QUEUES or answer.request.method == "DELETE":
        return True
    return _ATOM.match(answer.content) is not None


def _read(body: bytes) -> dict[str, Any] | None:
    for read in (orjson.loads, json.loads):  # orjson takes no lone surrogates
        try:
            found: object = read(body)
        except (ValueError, RecursionError):
            continue
        return cast("dict[str, Any]", found) if isinstance(found, dict) else None
    return None


class Believed(RequestsTransport):
    """Sends requests; raises, in place of an answer that is not the service's, what a cut one does.

    So the SDK tries again where it does so for a cut one. `sent` is told of each request.
    """

    def __init__(
        self,
        is_answer: Callable[[Response], bool],
        *,
        sent: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._sent = sent
        self._is_answer = is_answer

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Send a request. Raises `ServiceResponseError`."""
        if self._sent is not None:
            self._sent(request)
        response = cast("Any", super().send(request, **kwargs))
        answer: Response = response.internal_response
        try:
            if not answer.ok:  # of a stream the SDK would leave it, and its connection with it
                _ = answer.content
            believed = self._is_answer(answer)
        except RequestException as error:
            raise ServiceResponseError(str(error), error=error) from error
        if not believed:
            shown = answer.content[:60].decode(errors="replace")
            raise ServiceResponseError(f"the answer is cut or not the service's: {shown!r}")
        return response


@contextmanager
def reading(what: str) -> Generator[None]:
    """Raise, in place of what an SDK raises for parts of other types, that `what` is lacking."""
    try:
        yield
    except SHAPELESS as error:
        raise incomplete(what) from error
