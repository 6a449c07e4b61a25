"""The bucket of large payloads, which `apply` makes: it belongs to no stack.

Other programs may keep theirs in it, and CloudFormation would set all its rules at once.
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from cloudq_aws.s3 import S3
from cloudq_deploy.aws.plan import Payloads
from cloudq_deploy.aws.stack.access import Aws, asking, code_of

_MISSING = frozenset({"404", "NoSuchBucket", "NotFound"})


def prepare_payloads(aws: Aws, payloads: Payloads) -> None:
    """Make the bucket, private, unless it exists, and set the rule of its payloads.

    Raises `DeployError`, for a bucket of another account too.
    """
    with asking(f"make bucket {payloads.bucket}"):
        try:
            aws.s3.head_bucket(Bucket=payloads.bucket, ExpectedBucketOwner=aws.account)
        except ClientError as error:
            if code_of(error) not in _MISSING:
                raise
        place = S3(aws.s3, region=aws.region or "", bucket=payloads.bucket, prefix=payloads.prefix)
        place.create_place(expires=payloads.days * 86_400.0)
