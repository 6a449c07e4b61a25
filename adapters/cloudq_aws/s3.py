"""Blobs in S3: `s3://bucket/prefix?region=eu-west-1`.

Options: `region`, `endpoint_url` and `profile`, as those of `sqs://`. With an endpoint, or with
AWS_ENDPOINT_URL, a bucket's name is part of the path, and checksums are sent only where S3 needs
them: few stand-ins know all of them.

Who sends and runs tasks needs s3:GetObject, s3:PutObject, s3:DeleteObject and
s3:AbortMultipartUpload on `bucket/prefix/*`, and s3:ListBucket on the bucket: without it S3 answers
403 in place of 404 for a blob that is gone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cloudq.driver import Address, Code, Failure
from cloudq.driver.blob_content import NoBlob, checked, part_of
from cloudq.driver.blobs import BLOB_KEY, Blob, BlobGone, BlobPage
from cloudq.errors import ConfigurationError
from cloudq_aws.answers import cut, told
from cloudq_aws.client import access
from cloudq_aws.errors import advice, entry_code, error_code, response_of
from cloudq_aws.metering import meter_s3

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        ErrorTypeDef,
        GetObjectRequestTypeDef,
        LifecycleRuleOutputTypeDef,
        LifecycleRuleUnionTypeDef,
        ListObjectsV2RequestTypeDef,
    )

# The parts of an upload: their bytes, how many are on their way at once, and S3's most of one.
_PART = 8 << 20
_AT_ONCE = 3
_MOST_PARTS = 10_000
# The bytes of a part that is read.
_READ = 1 << 20
_CHECKSUMS = tuple(f"Checksum{name}" for name in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"))
_DAY = 86_400
# A key that no blob has, of which nobody needs the content.
_NOWHERE = "check/nothing"

# An answer that is cut may not say what became of a blob.
_UNTOLD: ErrorTypeDef = {"Code": "InternalError", "Message": "S3 does not say that it is deleted"}

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_LISTED = (
    "S3 refuses to say that a blob is not there, or to read it: allow s3:GetObject on the blobs and"
    " s3:ListBucket on the bucket"
)


def open_blobs(address: Address) -> S3:
    """The driver of an `s3://` URL. Raises `ConfigurationError`."""
    if not _BUCKET.fullmatch(address.host):
        raise ConfigurationError(
            f"{address.url or 's3://'} names no bucket: write s3://my-bucket/payloads"
        )
    prefix = address.path.strip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"{address.url}: a prefix is of letters, digits, - _ . and /")
    reach = access(address)
    client = cast("S3Client", reach.client("s3"))
    return S3(client, region=reach.region, bucket=address.host, prefix=prefix and f"{prefix}/")


class S3:
    """A `Blobs` and `BlobAdmin` of objects in one bucket, under a prefix."""

    most_deleted = 1000

    def __init__(self, client: S3Client, *, region: str, bucket: str, prefix: str = "") -> None:
        self.client = client
        self.meter = meter_s3(self.client, prefix=prefix)
        self._region = region
        self._bucket = bucket
        self._prefix = prefix

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        name = self._name(key)
        if size > _PART:
            self._put_parts(name, content, size)
            return
        body = part_of(content, 0, size, _PART)
        told(self.client.put_object(Bucket=self._bucket, Key=name, Body=body), "ETag")

    def _put_parts(self, name: str, content: BinaryIO, size: int) -> None:
        """Store more than one part of a content: S3 has all of them, or forgets them."""
        reply = self.client.create_multipart_upload(Bucket=self._bucket, Key=name)
        upload: str = told(reply, "UploadId")
        try:
            parts = self._upload(name, upload, content, size)
            done = self.client.complete_multipart_upload(
                Bucket=self._bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}
            )
            told(done, "ETag")
        except BaseException:
            with suppress(Exception):  # the bucket's rule does it tomorrow
                self.client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)
            raise

    def _upload(
        self, name: str, upload: str, content: BinaryIO, size: int
    ) -> list[CompletedPartTypeDef]:
        """Upload all parts, a few at a time, each of which is read only when it is its turn."""
        most = max(_PART, math.ceil(size / _MOST_PARTS))
        parts: list[CompletedPartTypeDef] = []
        under_way: list[Future[CompletedPartTypeDef]] = []
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cloudq-s3") as threads:
            for number, start in enumerate(range(0, size, most), 1):
                if len(under_way) == _AT_ONCE:
                    parts.append(under_way.pop(0).result())
                part = part_of(content, start, size, most)
                under_way.append(threads.submit(self._upload_part, name, upload, number, part))
                del part  # else it stays in memory while the next one is read
            parts += [each.result() for each in under_way]
        return parts

    def _upload_part(self, name: str, upload: str, number: int, part: bytes) -> Any:
        reply = self.client.upload_part(
            Bucket=self._bucket, Key=name, UploadId=upload, PartNumber=number, Body=part
        )
        # Where parts were sent with checksums, S3 wants them again when it puts them together.
        done: dict[str, Any] = {name: reply[name] for name in _CHECKSUMS if name in reply}
        return done | {"PartNumber": number, "ETag": told(reply, "ETag")}

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._name(key)}
        if start:
            request["Range"] = f"bytes={start}-"
        try:
            reply = self.client.get_object(**request)
        except Exception as error:
            if _code(error) == "NoSuchKey":
                raise BlobGone(key) from error
            if _code(error) == "InvalidRange":  # it ends before
                return _nothing()
            raise
        is_range = reply.get("ContentRange", "").startswith(f"bytes {start}-")
        if "ETag" not in reply or (start and not is_range):
            reply["Body"].close()
            raise cut("it is not the blob, or not from there on")
        return _parts(reply["Body"])

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        names = [self._name(key) for key in keys]
        if not names:
            return ()
        reply = self.client.delete_objects(
            Bucket=self._bucket,
            Delete={"Objects": [{"Key": name} for name in dict.fromkeys(names)]},
        )
        deleted = {each.get("Key") for each in reply.get("Deleted", ())}
        errors = {each.get("Key"): each for each in reply.get("Errors", ())}
        return [
            _failure(index, errors.get(name, _UNTOLD))
            for index, name in enumerate(names)
            if name not in deleted
        ]

    def list(self, *, after: str | None, limit: int) -> BlobPage:
        request: ListObjectsV2RequestTypeDef = {
            "Bucket": self._bucket,
            "Prefix": self._prefix,
            "MaxKeys": limit,
        }
        if after is not None:
            request["StartAfter"] = self._prefix + after
        reply = self.client.list_objects_v2(**request)
        found: list[Blob] = []
        last = after or ""
        for each in reply.get("Contents", ()):
            last = told(each, "Key").removeprefix(self._prefix)
            if BLOB_KEY.fullmatch(last):
                written = told(each, "LastModified").timestamp()
                found.append(Blob(key=last, size=told(each, "Size"), written=written))
        if not told(reply, "IsTruncated"):
            return BlobPage(blobs=found)
        if last <= (after or ""):
            raise cut("its end is none of what was asked for")  # a list would never end
        return BlobPage(blobs=found, next=last)

    def create_place(self, *, expires: float) -> None:
        """Make the bucket, which nobody else can read, if it is not there, and set our rule."""
        try:
            self.client.head_bucket(Bucket=self._bucket)
        except Exception as error:
            if error_code(error) is not Code.NOT_FOUND:
                raise
            self._create()
        self._set_rule(max(1, math.ceil(expires / _DAY)))

    def _create(self) -> None:
        place: Any = {}
        if self._region != "us-east-1":  # which it takes for no place
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            self.client.create_bucket(Bucket=self._bucket, **place)
        except self.client.exceptions.BucketAlreadyOwnedByYou:
            return
        self.client.put_public_access_block(
            Bucket=self._bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )

    def _set_rule(self, days: int) -> None:
        """Set the rule of our prefix among those of the bucket, which S3 takes as a whole."""
        rules: list[LifecycleRuleOutputTypeDef] = []
        others: dict[str, Any] = {}
        try:
            reply = self.client.get_bucket_lifecycle_configuration(Bucket=self._bucket)
        except Exception as error:
            if _code(error) != "NoSuchLifecycleConfiguration":
                raise
        else:
            rules = told(reply, "Rules")
            if least := reply.get("TransitionDefaultMinimumObjectSize"):
                others["TransitionDefaultMinimumObjectSize"] = least
        ours: LifecycleRuleUnionTypeDef = {
            "ID": rule_id(self._prefix),
            "Status": "Enabled",
            "Filter": {"Prefix": self._prefix},
            "Expiration": {"Days": days},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        kept = [rule for rule in rules if rule.get("ID") != ours["ID"]]
        self.client.put_bucket_lifecycle_configuration(
            Bucket=self._bucket, LifecycleConfiguration={"Rules": [*kept, ours]}, **others
        )

    def check_place(self) -> None:
        """Read a blob that is not there: it needs no right that a worker lacks."""
        try:
            self.client.get_object(Bucket=self._bucket, Key=self._prefix + _NOWHERE)
        except Exception as error:
            if _code(error) != "NoSuchKey":
                raise

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        if isinstance(error, NoBlob):
            return Code.INVALID
        # For want of a code the SDK has the status, or none: of a HEAD, or of a page of others.
        is_s3 = _code(error).strip("0123456789") or _operation(error) == "HeadBucket"
        if response_of(error) is not None and not is_s3:
            return Code.UNREACHABLE
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        is_refused = _operation(error) == "GetObject" and _code(error) == "AccessDenied"
        return _LISTED if is_refused else advice(error)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)


def rule_id(prefix: str) -> str:
    """Return the id of the rule that deletes old blobs under a prefix."""
    return f"cloudq {prefix}".strip()


def _code(error: Exception) -> str:
    """Return the code in an answer of S3 that is an error; other errors have none."""
    response = response_of(error) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _operation(error: Exception) -> str:
    return getattr(error, "operation_name", "")


def _failure(index: int, told_error: ErrorTypeDef) -> Failure:
    name, message = told_error.get("Code", ""), told_error.get("Message", "")
    code = entry_code(name, message, sender_fault=False)
    return Failure(index=index, code=code, reason=message or name)


def _parts(body: StreamingBody) -> Generator[bytes]:
    with body:  # closing it before its end drops its connection
        while part := body.read(_READ):
            yield part


def _nothing() -> Generator[bytes]:
    yield from ()
