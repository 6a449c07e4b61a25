"""Blobs in S3 pass the contract; and what only S3 has."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cloudq.driver import Code
from cloudq.driver import loader as plugins
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.testing import BlobsContract
from cloudq.testing.contracts.blobs import new_key
from cloudq_aws.s3 import S3, open_blobs
from localstack.servers import Endpoint
from tests.adapters.answering import Answer, Answering
from tests.servers import unique
from tests.support.serving import serving

LARGE = 20 << 20
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def opened(aws: Endpoint, bucket: str, *, prefix: str = "shop/payloads") -> S3:
    return open_blobs(parse(f"s3://{bucket}/{prefix}?endpoint_url={aws.url}"))


@pytest.fixture
def bucket() -> str:
    return unique("payloads")


@pytest.fixture
def driver(aws: Endpoint, bucket: str) -> Iterator[S3]:
    with closing(opened(aws, bucket)) as driver:
        driver.create_place(expires=86_400.0)
        yield driver


class TestContract(BlobsContract):
    has_missing_place = True

    @pytest.fixture
    def driver(self, aws: Endpoint, bucket: str) -> Iterator[S3]:
        with closing(opened(aws, bucket)) as driver:
            driver.create_place(expires=86_400.0)
            yield driver

    @pytest.fixture
    def another(self, aws: Endpoint, bucket: str) -> Iterator[S3]:
        with closing(opened(aws, bucket)) as driver:
            yield driver

    @pytest.fixture
    def missing_place(self, aws: Endpoint) -> Iterator[S3]:
        with closing(opened(aws, unique("missing"))) as driver:
            yield driver


@pytest.fixture
def liar() -> Iterator[Answering]:
    with serving(Answering(Answer())) as server:
        yield server


@pytest.fixture
def misled(liar: Answering) -> Iterator[S3]:
    with closing(open_blobs(parse(f"s3://bucket/p?endpoint_url={liar.url}"))) as driver:
        yield driver


class Broken(io.BytesIO):
    """Content whose end cannot be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > LARGE // 2:
            raise ArithmeticError("its disk is gone")
        return super().read(size)


@pytest.mark.parametrize("content", [Broken(bytes(LARGE)), io.BytesIO(bytes(LARGE - 1))])
def test_nothing_is_left_of_an_upload_that_fails(
    driver: S3, bucket: str, content: io.BytesIO
) -> None:
    with pytest.raises((ArithmeticError, ValueError)):
        driver.put(new_key(), content, LARGE)
    assert not driver.client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert not driver.client.list_objects_v2(Bucket=bucket).get("Contents")


def test_prefixes_share_a_bucket(aws: Endpoint, driver: S3, bucket: str) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(b"ours"), 4)
    driver.client.put_object(Bucket=bucket, Key="shop/payloads/readme.txt", Body=b"theirs")
    for prefix in ("", "shop", "shop/pay"):
        with closing(opened(aws, bucket, prefix=prefix)) as other:
            assert not other.list(after=None, limit=10).blobs
            other.put(key, io.BytesIO(b"theirs"), 6)
            other.delete([key])
    assert [blob.key for blob in driver.list(after=None, limit=10).blobs] == [key]
    assert b"".join(driver.read(key)) == b"ours"


def test_rules_of_others_stay(aws: Endpoint, driver: S3, bucket: str) -> None:
    client: Any = driver.client
    theirs = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 3},
    }
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]}
    )
    with closing(opened(aws, bucket, prefix="other")) as other:
        other.create_place(expires=7 * 86_400.0)
    driver.create_place(expires=86_400.0)
    driver.create_place(expires=1.5 * 86_400.0)
    rules = {
        rule["ID"]: (rule["Filter"], rule["Expiration"]["Days"])
        for rule in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    }
    assert rules == {
        "theirs": ({"Prefix": "logs/"}, 3),
        "cloudq other/": ({"Prefix": "other/"}, 7),
        "cloudq shop/payloads/": ({"Prefix": "shop/payloads/"}, 2),
    }


def test_a_bucket_that_is_made_is_nobody_else_s(aws: Endpoint, driver: S3, bucket: str) -> None:
    client: Any = driver.client
    blocked = client.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(blocked.values()) == {True}
    theirs = unique("public")
    client.create_bucket(Bucket=theirs)
    with closing(opened(aws, theirs)) as other:
        other.create_place(expires=86_400.0)
    with pytest.raises(client.exceptions.ClientError, match="NoSuchPublicAccessBlock"):
        client.get_public_access_block(Bucket=theirs)


def test_a_bucket_is_made_in_the_region_of_the_url(aws: Endpoint) -> None:
    bucket = unique("payloads")
    url = f"s3://{bucket}?region=eu-west-1&endpoint_url={aws.url}"
    with closing(open_blobs(parse(url))) as driver:
        driver.create_place(expires=1.0)
        assert driver.client.get_bucket_location(Bucket=bucket)["LocationConstraint"] == "eu-west-1"


def test_requests_are_counted_by_the_kind_of_blob(driver: S3) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(bytes(LARGE)), LARGE)
    list(driver.read(key))
    driver.list(after=None, limit=10)
    driver.delete([key, new_key()])
    rows = {spot: (row.requests, row.units) for spot, row in driver.meter.rows().items()}
    assert rows["put", "messages", "s3_write"] == (5, 5)  # 3 parts, a begin and an end
    assert rows["get", "messages", "s3_read"] == (1, 1)
    assert rows["query", "", "s3_write"] == (1, 1)
    assert rows["delete", "", ""] == (1, 0)


def test_a_blob_that_comes_cut_is_an_error(liar: Answering, misled: S3) -> None:
    liar.answers = [Answer(body=bytes(3 << 20), cut=2 << 20, headers={"ETag": "1"})]
    reading = misled.read(new_key())
    assert len(next(reading)) == 1 << 20
    with pytest.raises(Exception) as caught:
        list(reading)
    assert misled.error_code(caught.value) is Code.UNREACHABLE


def test_a_range_that_is_none_is_an_error(liar: Answering, misled: S3) -> None:
    liar.answers = [Answer(body=b"all of it, from its start", headers={"ETag": "1"})]
    with pytest.raises(Exception, match="not from there on") as caught:
        misled.read(new_key(), start=5)
    assert misled.error_code(caught.value) is Code.UNREACHABLE


def test_a_404_that_is_not_of_s3_says_nothing_of_a_blob(liar: Answering, misled: S3) -> None:
    liar.answers = [Answer(status=404, body=b"<html>no such page</html>")]
    with pytest.raises(Exception) as caught:
        misled.read(new_key())
    assert misled.error_code(caught.value) is Code.UNREACHABLE


def test_without_the_right_to_list_advice_is_given(liar: Answering, misled: S3) -> None:
    liar.answers = [Answer(status=403, body=DENIED)]
    with pytest.raises(Exception) as caught:
        misled.read(new_key())
    assert misled.error_code(caught.value) is Code.DENIED
    assert "s3:ListBucket" in (misled.advice(caught.value) or "")
    with pytest.raises(Exception) as caught:
        misled.put(new_key(), io.BytesIO(), 0)
    assert misled.advice(caught.value) is None


def test_what_is_not_deleted_is_told(liar: Answering, misled: S3) -> None:
    first, second = new_key(), new_key()
    refused = f"<Error><Key>p/{second}</Key><Code>AccessDenied</Code><Message>No</Message></Error>"
    done = f"<Deleted><Key>p/{first}</Key></Deleted>"
    liar.answers = [Answer(body=f"<DeleteResult>{done}{refused}</DeleteResult>".encode())]
    failures = misled.delete([first, second, second, new_key()])
    untold = "S3 does not say that it is deleted"
    assert [(each.index, each.code, each.reason) for each in failures] == [
        (1, Code.DENIED, "No"),
        (2, Code.DENIED, "No"),
        (3, Code.UNREACHABLE, untold),
    ]


def test_an_empty_answer_is_none(liar: Answering, misled: S3) -> None:
    for tried in (
        lambda: misled.put(new_key(), io.BytesIO(b"x"), 1),
        lambda: misled.put(new_key(), io.BytesIO(bytes(LARGE)), LARGE),
        lambda: misled.read(new_key()),
        lambda: misled.list(after=None, limit=5),
    ):
        with pytest.raises(Exception, match="the answer is cut") as caught:
            tried()
        assert misled.error_code(caught.value) is Code.UNREACHABLE
    assert misled.delete([new_key()])


def test_a_list_that_would_never_end_is_an_error(liar: Answering, misled: S3) -> None:
    liar.answers = [Answer(body=b"<R><IsTruncated>true</IsTruncated></R>")]
    with pytest.raises(Exception, match="its end is none of what was asked for") as caught:
        misled.list(after=None, limit=5)
    assert misled.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "names no bucket"),
        ("s3://No_Bucket", "names no bucket"),
        ("s3://bucket/a//b", "a prefix is of letters"),
        ("s3://bucket/a?b", "not a URL|no option 'b'"),
        ("s3://bucket?size=3", "no option 'size'"),
        ("s3://bucket?region=here", "not an AWS region"),
        ("s3://user@bucket", "names no bucket|takes no user"),
    ],
)
def test_a_wrong_url(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        plugins.open_blobs(url)
