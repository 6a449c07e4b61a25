"""Classifies the errors of Google's client libraries."""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.api_core import exceptions as sdk
from google.auth import exceptions as auth
from google.protobuf.json_format import ParseError

from cloudq.driver import Code
from cloudq.driver.conditional import Refusal

# What has no code of its own and is told in words only, by the class of its error. The order
# matters: the first that fits.
_WORDS: tuple[tuple[type[Exception], str, Code], ...] = (
    (sdk.BadRequest, "is longer than", Code.TOO_LARGE),
    (sdk.BadRequest, "exceeds the maximum", Code.TOO_LARGE),
    (sdk.BadRequest, "too large", Code.TOO_LARGE),
    (sdk.BadRequest, "payload size exceeds", Code.TOO_LARGE),
    # gRPC's own limits, of either side.
    (sdk.ResourceExhausted, "larger than max", Code.TOO_LARGE),
    (sdk.ResourceExhausted, "exceeds maximum size", Code.TOO_LARGE),
    # gRPC's words for credentials that gave no token, which it calls UNAVAILABLE; before it,
    # those of an issuer of tokens that does not answer.
    (sdk.ServiceUnavailable, "Max retries exceeded with url", Code.UNREACHABLE),
    (sdk.ServiceUnavailable, "Getting metadata from plugin failed", Code.CREDENTIALS),
)

# The order matters: the first that fits.
_CLASSES: tuple[tuple[type[Exception], Code], ...] = (
    (sdk.NotFound, Code.NOT_FOUND),
    (sdk.AlreadyExists, Code.EXISTS),
    (sdk.Conflict, Code.THROTTLED),  # ABORTED: others were in the way
    (sdk.Forbidden, Code.DENIED),
    (sdk.Unauthenticated, Code.CREDENTIALS),
    (sdk.Unauthorized, Code.CREDENTIALS),
    (sdk.ResourceExhausted, Code.THROTTLED),
    (sdk.TooManyRequests, Code.THROTTLED),
    (sdk.FailedPrecondition, Code.INVALID),
    (sdk.OutOfRange, Code.INVALID),
    (sdk.MethodNotImplemented, Code.UNSUPPORTED),
    (sdk.InvalidArgument, Code.INVALID),
    (sdk.BadRequest, Code.INVALID),
    (sdk.RetryError, Code.UNREACHABLE),
    (sdk.Cancelled, Code.UNREACHABLE),  # the connection was closed meanwhile
    (sdk.ServerError, Code.UNREACHABLE),  # UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL
    (auth.TransportError, Code.UNREACHABLE),
    (auth.GoogleAuthError, Code.CREDENTIALS),
    (ParseError, Code.UNREACHABLE),  # an answer whose parts are of other types
    (OSError, Code.UNREACHABLE),
)


class GcpError(Refusal):
    """A refusal that needs no request, or that Google spreads over several answers."""


def incomplete(lacks: str) -> GcpError:
    """Make the error of an answer that lacks what the service always sends."""
    return GcpError(
        f"the answer is cut or not the service's: it lacks {lacks}", code=Code.UNREACHABLE
    )


REQUEST_ERRORS = (sdk.GoogleAPICallError, auth.GoogleAuthError, ParseError, GcpError)
"""Raised by a request that has failed."""


def named(reply: Any, what: str) -> Any:
    """Return what was made or found. Raises `GcpError` for an answer that does not name it."""
    if not reply.name:
        raise incomplete(f"the name of the {what}")
    return reply


def listed(pager: Any, name: str) -> Iterator[Any]:
    """Iterate over the members of a list's pages, which have them under this name.

    Raises `GcpError` for a page that is said to follow twice: the list would never end.
    """
    told: set[str] = set()
    for page in pager.pages:
        yield from getattr(page, name)
        if page.next_page_token in told:
            raise incomplete("the page behind the last one")
        told.add(page.next_page_token)


def error_code(error: Exception) -> Code:
    """Return the code of an error of Google's client libraries."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, sdk.RetryError) and isinstance(error.cause, Exception):
        return error_code(error.cause)
    text = str(error)
    for kind, words, code in _WORDS:
        if isinstance(error, kind) and words in text:
            return code
    return next((code for kind, code in _CLASSES if isinstance(error, kind)), Code.UNKNOWN)
