"""Classifies the errors of botocore, SQS and DynamoDB."""

from __future__ import annotations

import botocore.exceptions as sdk

from cloudq.driver import Code

# SQS answers with its old query names or with the shapes of its JSON model: it depends on the
# operation, so both are here.
_CODES = {
    "AWS.SimpleQueueService.NonExistentQueue": Code.NOT_FOUND,
    "QueueDoesNotExist": Code.NOT_FOUND,
    "ResourceNotFoundException": Code.NOT_FOUND,
    "TableNotFoundException": Code.NOT_FOUND,
    "QueueAlreadyExists": Code.EXISTS,
    "QueueNameExists": Code.EXISTS,
    "ConflictException": Code.EXISTS,
    "ResourceInUseException": Code.EXISTS,
    "AccessDenied": Code.DENIED,
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
    "InvalidClientTokenId": Code.CREDENTIALS,
    "InvalidSecurity": Code.CREDENTIALS,
    "InvalidSignatureException": Code.CREDENTIALS,
    "MissingAuthenticationToken": Code.CREDENTIALS,
    "MissingAuthenticationTokenException": Code.CREDENTIALS,
    "SignatureDoesNotMatch": Code.CREDENTIALS,
    "UnrecognizedClientException": Code.CREDENTIALS,
    "AWS.SimpleQueueService.PurgeQueueInProgress": Code.THROTTLED,
    "AWS.SimpleQueueService.QueueDeletedRecently": Code.THROTTLED,
    "KMS.ThrottlingException": Code.THROTTLED,
    "KmsThrottled": Code.THROTTLED,
    "LimitExceededException": Code.THROTTLED,
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
    "InternalError": Code.UNREACHABLE,
    "InternalFailure": Code.UNREACHABLE,
    "InternalServerError": Code.UNREACHABLE,
    "RequestTimeout": Code.UNREACHABLE,
    "ServiceUnavailable": Code.UNREACHABLE,
    "AWS.SimpleQueueService.BatchRequestTooLong": Code.TOO_LARGE,
    "BatchRequestTooLong": Code.TOO_LARGE,
    "ItemCollectionSizeLimitExceededException": Code.TOO_LARGE,
    "AWS.SimpleQueueService.MessageNotInflight": Code.LEASE_LOST,
    "MessageNotInflight": Code.LEASE_LOST,
    "ReceiptHandleIsInvalid": Code.LEASE_LOST,
    "AWS.SimpleQueueService.UnsupportedOperation": Code.UNSUPPORTED,
    "InvalidAction": Code.UNSUPPORTED,
    "UnknownOperationException": Code.UNSUPPORTED,
    "UnsupportedOperation": Code.UNSUPPORTED,
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

# The order matters: the first that fits.
_CLASSES: tuple[tuple[type[Exception], Code], ...] = (
    (sdk.NoCredentialsError, Code.CREDENTIALS),
    (sdk.PartialCredentialsError, Code.CREDENTIALS),
    (sdk.CredentialRetrievalError, Code.CREDENTIALS),
    (sdk.TokenRetrievalError, Code.CREDENTIALS),
    (sdk.SSOError, Code.CREDENTIALS),
    (sdk.ParamValidationError, Code.INVALID),
    (sdk.HTTPClientError, Code.UNREACHABLE),  # refused, timed out, cut off, no such host
    (sdk.ConnectionError, Code.UNREACHABLE),
)


class AwsError(Exception):
    """An AWS error that needs no request, or that AWS reports in several answers."""

    def __init__(self, message: str, *, code: Code) -> None:
        super().__init__(message)
        self.code = code


def error_code(error: Exception) -> Code:
    """Return the code of an error of boto3."""
    if isinstance(error, AwsError):
        return error.code
    if isinstance(error, sdk.ClientError):
        return _of_response(error)
    return next((code for kind, code in _CLASSES if isinstance(error, kind)), Code.UNKNOWN)


def entry_code(name: str, message: str, *, sender_fault: bool) -> Code:
    """Return the code of one entry of a batch's `Failed`."""
    fallback = Code.INVALID if sender_fault else Code.THROTTLED
    return _of_name(name, message) or fallback


def _of_response(error: sdk.ClientError) -> Code:
    detail = error.response.get("Error", {})
    found = _of_name(detail.get("Code", ""), str(detail.get("Message", "")))
    if found:
        return found
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return Code.UNREACHABLE if status >= 500 else Code.UNKNOWN


def _of_name(name: str, message: str) -> Code | None:
    found = _CODES.get(name)
    if found not in (Code.INVALID, None):
        return found
    return next((code for words, code in _WORDS.items() if words in message), found)
