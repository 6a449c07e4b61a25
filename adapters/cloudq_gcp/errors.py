"""What each error of Google's client libraries calls for."""

from __future__ import annotations

from google.api_core import exceptions as sdk
from google.auth import exceptions as auth

from cloudq.changes import Refusal
from cloudq.driver import Code

# The services have no code for these: they say it in words only.
_WORDS = {
    "is longer than": Code.TOO_LARGE,
    "exceeds the maximum": Code.TOO_LARGE,
    "request payload size exceeds": Code.TOO_LARGE,
    # gRPC's words for credentials that gave no token, which it calls UNAVAILABLE.
    "Getting metadata from plugin failed": Code.CREDENTIALS,
}

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
    (sdk.ServerError, Code.UNREACHABLE),  # UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL
    (auth.TransportError, Code.UNREACHABLE),
    (auth.GoogleAuthError, Code.CREDENTIALS),
    (OSError, Code.UNREACHABLE),
)


class GcpError(Refusal):
    """A refusal that needs no request, or that Google spreads over several answers."""


def error_code(error: Exception) -> Code:
    """The reaction that an error of Google's client libraries calls for."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, sdk.RetryError) and isinstance(error.cause, Exception):
        return error_code(error.cause)
    if isinstance(error, sdk.BadRequest | sdk.ServiceUnavailable):
        found = next((code for words, code in _WORDS.items() if words in str(error)), None)
        if found:
            return found
    return next((code for kind, code in _CLASSES if isinstance(error, kind)), Code.UNKNOWN)
