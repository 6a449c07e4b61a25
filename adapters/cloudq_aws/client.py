"""Makes boto3 clients from a broker's or a backend's URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from cloudq.driver import Address
from cloudq.errors import ConfigurationError
from cloudq_aws.answers import guard
from cloudq_aws.retries import Retries

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

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")
_COMMON = ("endpoint_url", "profile", "region")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Access to AWS: a session with its credentials, and the endpoint of requests."""

    session: boto3.Session
    region: str
    endpoint_url: str | None
    config: Config

    def client(self, service: str) -> object:
        """A client of the service, safe from many threads; the caller knows its type."""
        # The stubs know a client by an overload for each of 400 services, most not installed.
        make = cast("Callable[..., object]", getattr(self.session, "client"))  # noqa: B009
        made = make(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            config=self.config,
        )
        client = cast("BaseClient", made)
        guard(client)
        Retries(_ATTEMPTS).watch(client)
        return made


def access(address: Address, *, region: str = "", options: tuple[str, ...] = ()) -> Access:
    """Read the URL's options and find region and credentials. Raises `ConfigurationError`.

    `options` are those that the caller reads itself. What the URL leaves open comes from the
    normal AWS environment: variables, the shared files, the role of the instance or function.
    """
    known = sorted((*_COMMON, *options))
    unknown = [name for name in address.options if name not in known]
    if unknown:
        raise ConfigurationError(
            f"{address.scheme}:// has no option {unknown[0]!r}; it knows {', '.join(known)}"
        )
    given = region or address.options.get("region", "")
    if "@" in f"{given}{address.host}":  # not quoted: a password may stand there
        raise ConfigurationError(
            f"{address.scheme}:// takes no user and no password: credentials come from the "
            "environment, as the AWS CLI takes them"
        )
    if given and not _REGION.fullmatch(given):
        raise ConfigurationError(
            f'"{given}" in {address.url or address.scheme} is not an AWS region such as eu-west-1'
        )
    try:
        return _find(address, given)
    except BotoCoreError as error:  # an unknown profile, a shared file that does not parse
        raise ConfigurationError(f"{address.scheme}://: {error}") from error


def _find(address: Address, given: str) -> Access:
    session = boto3.Session(profile_name=address.options.get("profile") or None)
    # boto3 itself reads AWS_DEFAULT_REGION only; every other SDK, and Lambda, says AWS_REGION.
    region = given or os.environ.get("AWS_REGION") or session.region_name
    if not region:
        raise ConfigurationError(
            f"no AWS region for {address.scheme}://: add ?region=eu-west-1, or set AWS_REGION"
        )
    if session.get_credentials() is None:
        raise ConfigurationError(
            f"no AWS credentials for {address.scheme}://: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            " and AWS_SECRET_ACCESS_KEY, or give the machine or function a role"
        )
    return Access(
        session=session,
        region=region,
        endpoint_url=address.options.get("endpoint_url") or None,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            max_pool_connections=_CONNECTIONS,
        ),
    )
