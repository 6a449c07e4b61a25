"""Classifies the errors of Azure's SDKs: Service Bus, Storage, identity, and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import azure.core.exceptions as core
import azure.servicebus.exceptions as bus

from cloudq.driver import Code
from cloudq.driver.conditional import Refusal

# The error codes of Table and Blob storage, and of the ones that all of Azure Storage shares.
_CODES = {
    "ResourceNotFound": Code.NOT_FOUND,
    "TableNotFound": Code.NOT_FOUND,
    "TableBeingDeleted": Code.THROTTLED,  # for up to 40 s; the name can be used again then
    "EntityNotFound": Code.NOT_FOUND,
    "ContainerNotFound": Code.NOT_FOUND,
    "ContainerDisabled": Code.DENIED,
    "ContainerBeingDeleted": Code.THROTTLED,  # as with a table
    "BlobNotFound": Code.NOT_FOUND,
    "ResourceAlreadyExists": Code.EXISTS,
    "TableAlreadyExists": Code.EXISTS,
    "EntityAlreadyExists": Code.EXISTS,
    "ContainerAlreadyExists": Code.EXISTS,
    "BlobAlreadyExists": Code.EXISTS,
    "AccountIsDisabled": Code.DENIED,
    "AuthorizationFailure": Code.DENIED,
    "AuthorizationPermissionMismatch": Code.DENIED,
    "AuthorizationProtocolMismatch": Code.DENIED,
    "AuthorizationResourceTypeMismatch": Code.DENIED,
    "AuthorizationServiceMismatch": Code.DENIED,
    "AuthorizationSourceIPMismatch": Code.DENIED,
    "BlobArchived": Code.DENIED,
    "BlobImmutableDueToPolicy": Code.DENIED,
    "InsufficientAccountPermissions": Code.DENIED,
    "LeaseIdMissing": Code.DENIED,  # somebody holds it
    "KeyBasedAuthenticationNotPermitted": Code.DENIED,
    "PublicAccessNotPermitted": Code.DENIED,
    "AuthenticationFailed": Code.CREDENTIALS,
    "InvalidAuthenticationInfo": Code.CREDENTIALS,
    "NoAuthenticationInformation": Code.CREDENTIALS,
    "AccountBeingCreated": Code.THROTTLED,
    "ServerBusy": Code.THROTTLED,
    "TooManyRequests": Code.THROTTLED,  # Table storage's API on Cosmos DB
    # Somebody else was faster, so that another try can go well.
    "ConditionNotMet": Code.THROTTLED,
    "UpdateConditionNotSatisfied": Code.THROTTLED,
    "InternalError": Code.UNREACHABLE,
    "InvalidBlockList": Code.UNREACHABLE,  # somebody else wrote the blob meanwhile
    "Md5Mismatch": Code.UNREACHABLE,
    "OperationTimedOut": Code.UNREACHABLE,
    "EntityTooLarge": Code.TOO_LARGE,
    "PropertyValueTooLarge": Code.TOO_LARGE,
    "RequestBodyTooLarge": Code.TOO_LARGE,
    "TooManyProperties": Code.TOO_LARGE,
    "NotImplemented": Code.UNSUPPORTED,
}

# Of a key that is not the account's, under more than one error code.
_WRONG_KEY = "Server failed to authenticate the request"

# Of HTTP answers whose error code says nothing.
_STATUSES = {
    400: Code.INVALID,
    401: Code.CREDENTIALS,
    403: Code.DENIED,
    404: Code.NOT_FOUND,
    408: Code.UNREACHABLE,
    409: Code.EXISTS,
    412: Code.THROTTLED,
    413: Code.TOO_LARGE,
    429: Code.THROTTLED,
    500: Code.UNREACHABLE,
    501: Code.UNSUPPORTED,
}

# Service Bus says in words only whether a token is no good or too weak, and what was wrong with a
# request; its SDK puts the condition of AMQP into the message.
_WORDS = {
    "InvalidSignature": Code.CREDENTIALS,
    "invalid signature": Code.CREDENTIALS,
    "InvalidIssuer": Code.CREDENTIALS,
    "InvalidAudience": Code.CREDENTIALS,
    "ExpiredToken": Code.CREDENTIALS,
    "token is expired": Code.CREDENTIALS,
    "Status Code: 401": Code.CREDENTIALS,
    "amqp:unauthorized-access": Code.DENIED,
    "com.microsoft:auth-failed": Code.DENIED,
    "amqp:not-found": Code.NOT_FOUND,
    "amqp:link:message-size-exceeded": Code.TOO_LARGE,
    "amqp:not-allowed": Code.INVALID,
    "amqp:not-implemented": Code.UNSUPPORTED,
    "amqp:resource-locked": Code.THROTTLED,
    "com.microsoft:argument-error": Code.INVALID,
    "com.microsoft:argument-out-of-range": Code.INVALID,
    "com.microsoft:container-close": Code.UNREACHABLE,
    "com.microsoft:operation-cancelled": Code.UNREACHABLE,
    "amqp:internal-error": Code.UNREACHABLE,
    "amqp:socket-error": Code.UNREACHABLE,
}

# The order matters: the first that fits.
_CLASSES: tuple[tuple[type[Exception], Code], ...] = (
    (bus.MessageLockLostError, Code.LEASE_LOST),
    (bus.SessionLockLostError, Code.LEASE_LOST),
    (bus.MessageAlreadySettled, Code.LEASE_LOST),
    (bus.AutoLockRenewFailed, Code.LEASE_LOST),
    (bus.AutoLockRenewTimeout, Code.LEASE_LOST),
    (bus.MessageNotFoundError, Code.NOT_FOUND),
    (bus.MessagingEntityNotFoundError, Code.NOT_FOUND),
    (bus.MessagingEntityAlreadyExistsError, Code.EXISTS),
    # A queue that somebody has switched off: only who may manage it can help.
    (bus.MessagingEntityDisabledError, Code.DENIED),
    (bus.ServiceBusAuthenticationError, Code.CREDENTIALS),
    (bus.MessageSizeExceededError, Code.TOO_LARGE),
    # The queue is full, or has too many connections.
    (bus.ServiceBusQuotaExceededError, Code.THROTTLED),
    (bus.ServiceBusServerBusyError, Code.THROTTLED),
    (bus.SessionCannotBeLockedError, Code.THROTTLED),
    (bus.OperationTimeoutError, Code.UNREACHABLE),
    (bus.ServiceBusCommunicationError, Code.UNREACHABLE),
    (bus.ServiceBusConnectionError, Code.UNREACHABLE),
    (core.ClientAuthenticationError, Code.CREDENTIALS),  # azure-identity's errors are of this class
    (core.ResourceNotFoundError, Code.NOT_FOUND),
    (core.ResourceExistsError, Code.EXISTS),
    (core.ResourceModifiedError, Code.THROTTLED),
    (core.ServiceRequestError, Code.UNREACHABLE),  # refused, timed out, no such host
    (core.ServiceResponseError, Code.UNREACHABLE),  # cut off, or no answer in time
    (core.IncompleteReadError, Code.UNREACHABLE),
    (core.DecodeError, Code.UNREACHABLE),  # a proxy's page, or an answer that was cut
    (OSError, Code.UNREACHABLE),
)


SHAPELESS = (TypeError, LookupError, AttributeError, ValueError)
"""Raised by the SDKs where a part of an answer is missing or of another type."""


class AzureError(Refusal):
    """A refusal that needs no request, or that Azure spreads over several answers."""


def incomplete(lacks: str) -> AzureError:
    """Make the error of an answer that lacks what the service always sends."""
    return AzureError(
        f"the answer is cut or not the service's: it lacks {lacks}", code=Code.UNREACHABLE
    )


def error_code(error: Exception) -> Code:
    """Return the code of an error of Azure's SDKs."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, core.HttpResponseError):
        if found := _of_answer(error):
            return found
        if error.response is None and isinstance(error.inner_exception, Exception):
            return error_code(error.inner_exception)  # of a part of a blob that came cut
    if found := next((code for kind, code in _CLASSES if isinstance(error, kind)), None):
        return found
    if isinstance(error, core.HttpResponseError):
        return _of_status(error.status_code or 0)
    return _of_words(error) if isinstance(error, bus.ServiceBusError) else Code.UNKNOWN


def _of_answer(error: core.HttpResponseError) -> Code | None:
    if _WRONG_KEY in str(error):
        return Code.CREDENTIALS
    name: object = getattr(error, "error_code", None)  # the SDK for tables has read the answer
    if name is None:
        headers: Mapping[str, str] = getattr(error.response, "headers", {})
        name = headers.get("x-ms-error-code")
    return _CODES.get(name.value if isinstance(name, Enum) else str(name))


def _of_status(status: int) -> Code:
    # A success that the SDK takes for an error is not the service's answer.
    if status >= 502 or 200 <= status < 400:
        return Code.UNREACHABLE
    return _STATUSES.get(status, Code.UNKNOWN)


def _of_words(error: bus.ServiceBusError) -> Code:
    found = next((code for words, code in _WORDS.items() if words in str(error)), None)
    if found:
        return found
    if isinstance(error, bus.ServiceBusAuthorizationError):
        return Code.DENIED
    # The SDK wraps what it did not expect, a credential's or a socket's error for example.
    cause = error.inner_exception
    if isinstance(cause, KeyError | IndexError | TypeError | AttributeError):
        return Code.UNREACHABLE  # it has read an answer that lacks a part
    return error_code(cause) if isinstance(cause, Exception) else Code.UNKNOWN
