"""The AWS services that a deployment talks to, on one account, region and endpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
)

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
    """The deployment could not be done, or not to the end; the message says how things stand."""


class Aws:
    """Clients of one session, each made when it is first used; safe from many threads."""

    def __init__(
        self, *, region: str | None, profile: str | None = None, endpoint_url: str | None = None
    ) -> None:
        try:
            self.session = boto3.Session(profile_name=profile, region_name=region)
        except ProfileNotFound as error:
            raise ConfigurationError(f"{error}: see `aws configure list-profiles`") from error
        if endpoint_url and not endpoint_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"--endpoint-url {endpoint_url}: it begins with http:// or https://, as "
                "http://127.0.0.1:4566"
            )
        self.endpoint_url = endpoint_url

    @property
    def region(self) -> str | None:
        """The region asked for, or that of the profile."""
        return self.session.region_name

    def client(self, service: str) -> object:
        """A client of the service; the caller knows its type."""
        # The stubs have an overload for each service, most of them not installed.
        make = cast("Callable[..., object]", getattr(self.session, "client"))  # noqa: B009
        return make(service, endpoint_url=self.endpoint_url, config=_CONFIG)

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        return cast("CloudFormationClient", self.client("cloudformation"))

    @cached_property
    def s3(self) -> S3Client:
        return cast("S3Client", self.client("s3"))

    @cached_property
    def functions(self) -> LambdaClient:
        return cast("LambdaClient", self.client("lambda"))

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        return cast("CloudWatchLogsClient", self.client("logs"))

    @cached_property
    def sqs(self) -> SQSClient:
        return cast("SQSClient", self.client("sqs"))

    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        return cast("DynamoDBClient", self.client("dynamodb"))

    @cached_property
    def scheduler(self) -> EventBridgeSchedulerClient:
        return cast("EventBridgeSchedulerClient", self.client("scheduler"))

    @cached_property
    def account(self) -> str:
        """The account's number. Raises `ConfigurationError` where there are no credentials."""
        with asking("ask who this is"):
            return cast("STSClient", self.client("sts")).get_caller_identity()["Account"]


def naps() -> Iterator[float]:
    """Seconds between looks at something that changes: short at first, then one a second."""
    for number in count():
        yield min(0.1 * 2 ** min(number, 4), 1.0)


@contextmanager
def asking(what: str) -> Generator[None]:
    """Turn what the SDK raises into one line that says what was tried and what to do."""
    try:
        yield
    except NoCredentialsError as error:
        raise ConfigurationError(
            f"no AWS credentials to {what}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or `aws sso login`; nothing was changed"
        ) from error
    except EndpointConnectionError as error:
        raise DeployError(f"cannot {what}: {error}: is --endpoint-url right?") from error
    except ClientError as error:
        code = code_of(error)
        if code in _BAD_KEYS:
            raise ConfigurationError(
                f"cannot {what}: AWS refuses the credentials: {error}"
            ) from error
        advice = ": see `cloudq deploy iam --role deployer`" if code in _DENIED else ""
        raise DeployError(f"cannot {what}: {error}{advice}") from error
    except BotoCoreError as error:
        raise DeployError(f"cannot {what}: {error}") from error


def code_of(error: ClientError) -> str:
    """The service's own name of the error."""
    return error.response.get("Error", {}).get("Code", "")


def message_of(error: ClientError) -> str:
    """The service's own words."""
    return error.response.get("Error", {}).get("Message", str(error))
