"""Makes clients of AWS from a broker's or a backend's URL."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudq.driver import Address
from cloudq.errors import ConfigurationError
from cloudq_aws.lean.early import Early
from cloudq_aws.lean.services import SERVICES, endpoint_of
from cloudq_aws.lean.surroundings import Keys, keys_here

if TYPE_CHECKING:
    from botocore.session import Session

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")
_COMMON = ("endpoint_url", "profile", "region")
_CLIENTS = {"": True, "lean": True, "boto3": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Access to AWS: where requests go, and how they are signed.

    `session` is botocore's. Without one, `keys` are the credentials, and frequent calls need no
    botocore; it is loaded for the others.
    """

    region: str
    endpoint_url: str | None
    session: Session | None = None
    keys: Keys | None = None
    is_lean: bool = True

    def client(self, service: str) -> object:
        """A client of the service, safe from many threads; the caller knows its type."""
        known = SERVICES.get(service)
        url = known and endpoint_of(service, self.region, self.endpoint_url)
        if known is None or not url or self.keys is None:
            return self.sdk_client(service)
        return Early(known, self.keys, self.region, url, self.sdk_client)

    def sdk_client(self, service: str) -> object:
        """A client of botocore, made now."""
        # To load botocore takes half of a function's cold start, and most never need it.
        from cloudq_aws.sdk import client_of, session_for

        session = self.session or session_for(self.region)
        return client_of(session, service, self.region, self.endpoint_url, is_lean=self.is_lean)


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
    if (client := address.options.get("client", "")) not in _CLIENTS:
        raise ConfigurationError(f"client={client[:40]} in {address.scheme}:// is lean or boto3")
    return _find(address, given, is_lean=_CLIENTS[client])


def _find(address: Address, given: str, *, is_lean: bool) -> Access:
    profile = address.options.get("profile") or None
    endpoint_url = address.options.get("endpoint_url") or None
    keys = keys_here() if is_lean and profile is None else None
    # boto3 itself reads AWS_DEFAULT_REGION only; every other SDK, and Lambda, says AWS_REGION.
    region = given or os.environ.get("AWS_REGION", "")
    if keys is not None and region:
        return Access(region=region, endpoint_url=endpoint_url, keys=keys)
    from cloudq_aws.sdk import session_with_region

    session, region = session_with_region(address, region)
    return Access(
        region=region,
        endpoint_url=endpoint_url,
        session=session,
        is_lean=is_lean,
    )
