"""The bucket that keeps the code of functions, and releases for a rollback.

STACK/code/DIGEST.zip         the code of the functions
STACK/releases/TIME.json      the template and parameters of each finished apply
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of

_MISSING = frozenset({"404", "NoSuchBucket", "NoSuchKey", "NotFound"})
_AT_HOME = "us-east-1"  # S3 refuses it as a location: leaving the location out means it


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A finished apply: its time (ISO 8601), template and parameters."""

    at: str
    template: Mapping[str, Any]
    parameters: Mapping[str, str]


class Bucket:
    """The bucket of one stack's deployments: `cloudq-deploy-ACCOUNT-REGION` unless named.

    Every request names the account that must own the bucket, so that a bucket of the same name in
    somebody else's account is refused.
    """

    def __init__(self, aws: Aws, stack: str, name: str | None = None) -> None:
        self._aws = aws
        self._stack = stack
        self._own = name is None
        self.name = name or f"cloudq-deploy-{aws.account}-{aws.region}"

    def code_key(self, digest: str) -> str:
        """The key of the zip with these contents."""
        return f"{self._stack}/code/{digest}.zip"

    def prepare(self) -> None:
        """Make the bucket, private and encrypted, unless it exists. Raises `DeployError`."""
        with asking(f"read bucket {self.name}"):
            if self._exists():
                return
        if not self._own:
            raise DeployError(f"there is no bucket {self.name}: make it, or leave --bucket out")
        s3 = self._aws.s3
        with asking(f"make bucket {self.name}"):
            if self._aws.region == _AT_HOME:
                s3.create_bucket(Bucket=self.name)
            else:
                place: Any = {"LocationConstraint": self._aws.region}
                s3.create_bucket(Bucket=self.name, CreateBucketConfiguration=place)
            s3.put_public_access_block(
                Bucket=self.name,
                ExpectedBucketOwner=self._aws.account,
                PublicAccessBlockConfiguration={
                    "BlockPublicAcls": True,
                    "IgnorePublicAcls": True,
                    "BlockPublicPolicy": True,
                    "RestrictPublicBuckets": True,
                },
            )

    def _exists(self) -> bool:
        try:
            self._aws.s3.head_bucket(Bucket=self.name, ExpectedBucketOwner=self._aws.account)
        except ClientError as error:
            if code_of(error) in _MISSING:
                return False
            raise
        return True

    def upload(self, path: Path, key: str) -> bool:
        """Upload the zip; returns False if it was there already."""
        owner = self._aws.account
        with asking(f"upload {path.name} to bucket {self.name}"):
            try:
                self._aws.s3.head_object(Bucket=self.name, Key=key, ExpectedBucketOwner=owner)
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise
            else:
                return False
            with path.open("rb") as body:
                self._aws.s3.put_object(
                    Bucket=self.name, Key=key, Body=body, ExpectedBucketOwner=owner
                )
        return True

    def save(self, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        """Save a release of what was applied."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        release = Release(at=now, template=template, parameters=parameters)
        with asking(f"save the release in bucket {self.name}"):
            self._aws.s3.put_object(
                Bucket=self.name,
                Key=f"{self._releases}{now}.json",
                Body=json.dumps(asdict(release)).encode(),
                ExpectedBucketOwner=self._aws.account,
            )

    def keep(self, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        """Save a release, unless the newest one is equal."""
        releases = self.releases()
        newest = self.release(releases[0]) if releases else None
        # Releases are saved as JSON, so they are compared as JSON.
        made: Any = json.loads(json.dumps([template, parameters]))
        if newest is None or [newest.template, newest.parameters] != made:
            self.prepare()
            self.save(template, parameters)

    def releases(self) -> list[str]:
        """List the keys of all releases, newest first."""
        with asking(f"list the releases in bucket {self.name}"):
            return sorted(self._keys(self._releases), reverse=True) if self._exists() else []

    def release(self, key: str) -> Release:
        """Read one release."""
        with asking(f"read {key} in bucket {self.name}"):
            reply = self._aws.s3.get_object(
                Bucket=self.name, Key=key, ExpectedBucketOwner=self._aws.account
            )
            return Release(**json.loads(reply["Body"].read()))

    @property
    def _releases(self) -> str:
        return f"{self._stack}/releases/"

    def _keys(self, prefix: str) -> Sequence[str]:
        pages = self._aws.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix, ExpectedBucketOwner=self._aws.account
        )
        return [each.get("Key", "") for page in pages for each in page.get("Contents", ())]

    def clear(self) -> None:
        """Delete the stack's objects, and the bucket if cloudq made it and it is empty."""
        owner = self._aws.account
        with asking(f"clear bucket {self.name}"):
            if not self._exists():
                return
            for key in self._keys(f"{self._stack}/"):
                self._aws.s3.delete_object(Bucket=self.name, Key=key, ExpectedBucketOwner=owner)
            if self._own and not self._keys(""):
                self._aws.s3.delete_bucket(Bucket=self.name, ExpectedBucketOwner=owner)
