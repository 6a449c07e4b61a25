"""Clients of the AWS services that a deployment uses, and one translation of their errors."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
)

from cloudq.clock import Backoff
from cloudq.errors import CloudQError, ConfigurationError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_BAD_KEYS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=3, read_timeout=910
)


class DeployError(CloudQError):
    """A deployment that failed; the message says what was changed and what to do."""


class Aws:
    """The clients of one session, each made at its first use; threads may share them."""

    def __init__(
        self, *, region: str | None, profile: str | None = None, endpoint_url: str | None = None
    ) -> None:
        try:
            self.session = boto3.Session(profile_name=profile, region_name=region)
        except ProfileNotFound as error:
            raise ConfigurationError(
                f"{error}: `aws configure list-profiles` shows the profiles"
            ) from error
        if endpoint_url and not endpoint_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"--endpoint-url {endpoint_url}: write the address with http:// or https://, such "
                "as "
                "http://127.0.0.1:4566"
            )
        self.endpoint_url = endpoint_url

    @property
    def region(self) -> str | None:
        """The region that was asked for, else the profile's."""
        return self.session.region_name

    def client(self, service: str) -> Any:
        """Make a client of the service; the caller states its type."""
        # The stubs have an overload for each service, most of them not installed.
        make: Any = getattr(self.session, "client")  # noqa: B009
        return make(service, endpoint_url=self.endpoint_url, config=_CONFIG)

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        return self.client("cloudformation")

    @cached_property
    def s3(self) -> S3Client:
        return self.client("s3")

    @cached_property
    def functions(self) -> LambdaClient:
        return self.client("lambda")

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        return self.client("logs")

    @cached_property
    def sqs(self) -> SQSClient:
        return self.client("sqs")

    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        return self.client("dynamodb")

    @cached_property
    def scheduler(self) -> EventBridgeSchedulerClient:
        return self.client("scheduler")

    @cached_property
    def account(self) -> str:
        """The number of the account. Raises `ConfigurationError` without credentials."""
        client: STSClient = self.client("sts")
        with asking("find the account of these credentials"):
            return client.get_caller_identity()["Account"]


def naps() -> Iterator[float]:
    """Yield the seconds to sleep between two looks at a change: short at first, then one."""
    return Backoff(0.1, 1.0, jitter=0.0).pauses()


@contextmanager
def asking(to: str) -> Generator[None]:
    """Turn an error of the SDK into one line: what could not be done (`to`), and the remedy."""
    try:
        yield
    except NoCredentialsError as error:
        raise ConfigurationError(
            f"no AWS credentials to {to}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run `aws sso login`; nothing was changed"
        ) from error
    except EndpointConnectionError as error:
        raise DeployError(f"cannot {to}: {error}: check --endpoint-url") from error
    except ClientError as error:
        code = code_of(error)
        if code in _BAD_KEYS:
            raise ConfigurationError(
                f"cannot {to}: AWS refuses the credentials: {error}"
            ) from error
        advice = ": `cloudq deploy iam --role deployer` prints the rights that this needs"
        raise DeployError(f"cannot {to}: {error}{advice if code in _DENIED else ''}") from error
    except BotoCoreError as error:
        raise DeployError(f"cannot {to}: {error}") from error


def code_of(error: ClientError) -> str:
    """The service's code for the error."""
    return error.response.get("Error", {}).get("Code", "")


def message_of(error: ClientError) -> str:
    """The service's message about the error."""
    return error.response.get("Error", {}).get("Message", str(error))
