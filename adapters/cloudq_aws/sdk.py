"""Finds a session of botocore, with its credentials and region, and makes clients of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from cloudq.driver import Address
from cloudq.errors import ConfigurationError
from cloudq_aws.checks import guard
from cloudq_aws.lean.calls import hasten
from cloudq_aws.retries import Retries
from cloudq_aws.session import client_session, session_of

if TYPE_CHECKING:
    from botocore.client import BaseClient

# One thread a request in flight; boto3's own 10 would make a worker's threads queue for a socket,
# and log a warning for each one that it throws away.
_CONNECTIONS = 64
# A long poll of SQS is silent for up to 20 s.
_READ_TIMEOUT = 30
_CONNECT_TIMEOUT = 3
# Tries of one request, the first included, by the SDK's rules and pauses.
_ATTEMPTS = 3

# S3's global endpoint, the SDK's own choice in its first region, is in the file that is not read.
_S3 = Config(s3={"us_east_1_regional_endpoint": "regional"})
# Of its stand-ins few are known under a name for each bucket, or know all checksums.
_S3_STAND_IN = Config(
    s3={"us_east_1_regional_endpoint": "regional", "addressing_style": "path"},
    request_checksum_calculation="when_required",
)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def session_for(region: str) -> Session:
    """Find a session to make clients of, where region and credentials are known to be there."""
    return client_session(session_of(None), region)


def session_with_region(address: Address, region: str) -> tuple[Session, str]:
    """Find a session that has credentials, and the region if none is given.

    Raises `ConfigurationError`.
    """
    try:
        return _find(address, region)
    except BotoCoreError as error:  # an unknown profile, a shared file that does not parse
        raise ConfigurationError(f"{address.scheme}://: {error}") from error


def _find(address: Address, given: str) -> tuple[Session, str]:
    session = session_of(address.options.get("profile") or None)
    region = given or session.get_config_variable("region")
    if not region:
        raise ConfigurationError(
            f"no AWS region for {address.scheme}://: add ?region=eu-west-1, or set AWS_REGION"
        )
    if session.get_credentials() is None:
        raise ConfigurationError(
            f"no AWS credentials for {address.scheme}://: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            " and AWS_SECRET_ACCESS_KEY, or give the machine or function a role"
        )
    return client_session(session, region), region


def client_of(
    session: Session, service: str, region: str, endpoint_url: str | None, *, is_lean: bool
) -> object:
    """Make a client of a service."""
    # The stubs know a client by an overload for each of 400 services, most not installed.
    make = cast("Callable[..., object]", session.create_client)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=_CONNECTIONS,
    )
    if service == "s3":
        is_stand_in = endpoint_url or any(map(os.environ.get, _ENDPOINTS))
        config = config.merge(_S3_STAND_IN if is_stand_in else _S3)
    made = make(service, region_name=region, endpoint_url=endpoint_url, config=config)
    client = cast("BaseClient", made)
    guard(client)
    if is_lean:
        hasten(client)
    Retries(_ATTEMPTS).watch(client)
    return made
