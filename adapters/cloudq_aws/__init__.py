"""cloudq on AWS: SQS, DynamoDB, and Lambda functions (`lambda_handler`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq_aws.functions import lambda_handler

__all__ = ["lambda_handler"]


def __getattr__(name: str) -> Any:
    # The drivers are in this package too, and must not need Powertools to be imported.
    if name != "lambda_handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cloudq_aws.functions import lambda_handler

    return lambda_handler
