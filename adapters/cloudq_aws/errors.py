"""Classifies the errors of botocore, SQS, DynamoDB and S3.

botocore is not loaded for it: an error can be one of its own only where it is loaded already.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, cast

from cloudq.driver import Code

# SQS answers with its old query names or with the shapes of its JSON model: it depends on the
# operation, so both are here.
_CODES = {
    "AWS.SimpleQueueService.NonExistentQueue": Code.NOT_FOUND,
    "QueueDoesNotExist": Code.NOT_FOUND,
    "ResourceNotFoundException": Code.NOT_FOUND,
    "TableNotFoundException": Code.NOT_FOUND,
    "NoSuchBucket": Code.NOT_FOUND,
    "NoSuchKey": Code.NOT_FOUND,
    "404": Code.NOT_FOUND,  # of a HEAD, whose answer has no text
    "QueueAlreadyExists": Code.EXISTS,
    "QueueNameExists": Code.EXISTS,
    "ConflictException": Code.EXISTS,
    "ResourceInUseException": Code.EXISTS,
    "BucketAlreadyExists": Code.EXISTS,
    "BucketAlreadyOwnedByYou": Code.EXISTS,
    "403": Code.DENIED,
    "AccessDenied": Code.DENIED,
    "AllAccessDisabled": Code.DENIED,
    "InvalidObjectState": Code.DENIED,  # in an archive
    "AccessDeniedException": Code.DENIED,
    "AWS.SimpleQueueService.AccessDenied": Code.DENIED,
    "KMS.AccessDeniedException": Code.DENIED,
    "KmsAccessDenied": Code.DENIED,
    "OptInRequired": Code.DENIED,
    # A million schedules, 500 groups: trying again does not help, asking AWS for more does.
    "ServiceQuotaExceededException": Code.DENIED,
    "ExpiredToken": Code.CREDENTIALS,
    "ExpiredTokenException": Code.CREDENTIALS,
    "IncompleteSignature": Code.CREDENTIALS,
    "InvalidAccessKeyId": Code.CREDENTIALS,
    "InvalidClientTokenId": Code.CREDENTIALS,
    "InvalidSecurity": Code.CREDENTIALS,
    "InvalidSignatureException": Code.CREDENTIALS,
    "InvalidToken": Code.CREDENTIALS,
    "MissingAuthenticationToken": Code.CREDENTIALS,
    "MissingAuthenticationTokenException": Code.CREDENTIALS,
    "RequestExpired": Code.CREDENTIALS,
    "RequestSkewed": Code.CREDENTIALS,
    "RequestTimeTooSkewed": Code.CREDENTIALS,
    "SignatureDoesNotMatch": Code.CREDENTIALS,
    "UnrecognizedClientException": Code.CREDENTIALS,
    "AWS.SimpleQueueService.PurgeQueueInProgress": Code.THROTTLED,
    "AWS.SimpleQueueService.QueueDeletedRecently": Code.THROTTLED,
    "KMS.ThrottlingException": Code.THROTTLED,
    "KmsThrottled": Code.THROTTLED,
    "LimitExceededException": Code.THROTTLED,
    "OperationAborted": Code.THROTTLED,  # somebody else changes the bucket
    # 120,000 messages in flight: the queue takes no more receives until some are settled.
    "OverLimit": Code.THROTTLED,
    "PurgeQueueInProgress": Code.THROTTLED,
    "ProvisionedThroughputExceededException": Code.THROTTLED,
    "QueueDeletedRecently": Code.THROTTLED,
    "RequestLimitExceeded": Code.THROTTLED,
    "RequestThrottled": Code.THROTTLED,
    "SlowDown": Code.THROTTLED,
    "ThrottledException": Code.THROTTLED,
    "Throttling": Code.THROTTLED,
    "ThrottlingException": Code.THROTTLED,
    "TooManyRequestsException": Code.THROTTLED,
    "TransactionConflictException": Code.THROTTLED,
    # What was sent came otherwise, or not whole.
    "BadDigest": Code.UNREACHABLE,
    "IncompleteBody": Code.UNREACHABLE,
    "XAmzContentSHA256Mismatch": Code.UNREACHABLE,
    "NoSuchUpload": Code.UNREACHABLE,  # somebody's rule was faster
    "InternalError": Code.UNREACHABLE,
    "InternalFailure": Code.UNREACHABLE,
    "InternalServerError": Code.UNREACHABLE,
    "RequestTimeout": Code.UNREACHABLE,
    "ServiceUnavailable": Code.UNREACHABLE,
    "AWS.SimpleQueueService.BatchRequestTooLong": Code.TOO_LARGE,
    "BatchRequestTooLong": Code.TOO_LARGE,
    "EntityTooLarge": Code.TOO_LARGE,
    "ItemCollectionSizeLimitExceededException": Code.TOO_LARGE,
    "RequestEntityTooLarge": Code.TOO_LARGE,
    "AWS.SimpleQueueService.MessageNotInflight": Code.LEASE_LOST,
    "MessageNotInflight": Code.LEASE_LOST,
    "ReceiptHandleIsInvalid": Code.LEASE_LOST,
    "AWS.SimpleQueueService.UnsupportedOperation": Code.UNSUPPORTED,
    "InvalidAction": Code.UNSUPPORTED,
    "UnknownOperationException": Code.UNSUPPORTED,
    "UnsupportedOperation": Code.UNSUPPORTED,
    # The bucket is in another region than the URL says.
    "301": Code.INVALID,
    "AuthorizationHeaderMalformed": Code.INVALID,
    "IllegalLocationConstraintException": Code.INVALID,
    "PermanentRedirect": Code.INVALID,
    "InvalidBucketName": Code.INVALID,
    "InvalidMessageContents": Code.INVALID,
    "InvalidParameterValue": Code.INVALID,
    "MissingParameter": Code.INVALID,
    "SerializationException": Code.INVALID,
    "ValidationError": Code.INVALID,
    "ValidationException": Code.INVALID,
}

# SQS and DynamoDB have no code for these: InvalidParameterValue and ValidationException say it in
# words only.
_WORDS = {
    "must be shorter than": Code.TOO_LARGE,
    "has exceeded the maximum allowed size": Code.TOO_LARGE,
    "receipt handle has expired": Code.LEASE_LOST,
    # Of a message that was deleted, or received by someone else.
    "not available for visibility timeout change": Code.LEASE_LOST,
    "security token": Code.CREDENTIALS,
}

# A request is signed with the time, which may be some minutes off. Of a signature that is wrong for
# that, SQS and DynamoDB tell it in words.
_SKEWED = frozenset({"RequestExpired", "RequestSkewed", "RequestTimeTooSkewed"})
_SKEWED_WORDS = ("Signature expired", "Signature not yet current")
_SET_CLOCK = "this machine's clock is minutes off the service's: set it, then try again"

# The names of botocore's classes. The order matters: the first that fits.
_CLASSES: tuple[tuple[str, Code], ...] = (
    ("NoCredentialsError", Code.CREDENTIALS),
    ("PartialCredentialsError", Code.CREDENTIALS),
    ("CredentialRetrievalError", Code.CREDENTIALS),
    ("TokenRetrievalError", Code.CREDENTIALS),
    ("SSOError", Code.CREDENTIALS),
    ("ParamValidationError", Code.INVALID),
    ("HTTPClientError", Code.UNREACHABLE),  # refused, timed out, cut off, no such host
    ("ConnectionError", Code.UNREACHABLE),
    ("IncompleteReadError", Code.UNREACHABLE),  # of a stream that was cut
    ("FlexibleChecksumError", Code.UNREACHABLE),
)
_ROOTS = ("ClientError", "BotoCoreError")


class AwsError(Exception):
    """An AWS error that needs no request, or that AWS reports in several answers."""

    def __init__(self, message: str, *, code: Code) -> None:
        super().__init__(message)
        self.code = code


def error_code(error: Exception) -> Code:
    """Return the code of an error of boto3."""
    if isinstance(error, AwsError):
        return error.code
    if (response := response_of(error)) is not None:
        return _of_response(response)
    sdk = _sdk()
    if sdk is None:
        return Code.UNKNOWN
    found = (code for name, code in _CLASSES if isinstance(error, getattr(sdk, name)))
    return next(found, Code.UNKNOWN)


def is_of_service(error: Exception) -> bool:
    """Tell whether an error is boto3's or this adapter's, and not one of the program."""
    sdk = _sdk()
    roots = tuple(getattr(sdk, name) for name in _ROOTS) if sdk is not None else ()
    return isinstance(error, (AwsError, *roots))


def response_of(error: Exception) -> dict[str, Any] | None:
    """Return the service's answer in an error of boto3; None in errors that have none."""
    sdk = _sdk()
    if sdk is None or not isinstance(error, sdk.ClientError):
        return None
    return cast("dict[str, Any]", cast("Any", error).response)


def _sdk() -> ModuleType | None:
    if "botocore.exceptions" not in sys.modules:
        return None
    import botocore.exceptions as sdk  # another thread may be at it: this waits for the whole

    return sdk


def advice(error: Exception) -> str | None:
    """Return what to do about an error of boto3 of which its code tells too little."""
    response = response_of(error)
    if response is None:
        return None
    detail = response.get("Error", {})
    words = str(detail.get("Message", ""))
    is_skewed = detail.get("Code") in _SKEWED or any(each in words for each in _SKEWED_WORDS)
    return _SET_CLOCK if is_skewed else None


def entry_code(name: str, message: str, *, sender_fault: bool) -> Code:
    """Return the code of one entry of a batch's `Failed`."""
    fallback = Code.INVALID if sender_fault else Code.THROTTLED
    return _of_name(name, message) or fallback


def _of_response(response: dict[str, Any]) -> Code:
    detail = response.get("Error", {})
    found = _of_name(detail.get("Code", ""), str(detail.get("Message", "")))
    if found:
        return found
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return Code.UNREACHABLE if status >= 500 else Code.UNKNOWN


def _of_name(name: str, message: str) -> Code | None:
    found = _CODES.get(name)
    if found not in (Code.INVALID, None):
        return found
    return next((code for words, code in _WORDS.items() if words in message), found)
