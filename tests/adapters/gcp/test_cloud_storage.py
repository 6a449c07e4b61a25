"""Blobs in Cloud Storage pass the contract; and what only it has."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from cloudq.driver import Code
from cloudq.driver import loader as plugins
from cloudq.driver.blobs import BlobGone
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.testing import BlobsContract
from cloudq.testing.contracts.blobs import new_key
from cloudq_gcp.cloud_storage import CloudStorage, open_blobs
from localstack.servers import Endpoint
from tests.adapters.answering import Answer, Answering
from tests.servers import unique
from tests.support.serving import serving

LARGE = 20 << 20
OF_GOOGLE = {"X-Goog-Hash": "crc32c=AAAAAA=="}


def opened(storage: Endpoint, bucket: str, *, prefix: str = "shop/payloads") -> CloudStorage:
    url = f"gs://{bucket}/{prefix}?emulator={storage.url}&project=cloudq-tests"
    return open_blobs(parse(url))


@pytest.fixture
def bucket() -> str:
    return unique("payloads")


@pytest.fixture
def driver(storage: Endpoint, bucket: str) -> Iterator[CloudStorage]:
    with closing(opened(storage, bucket)) as driver:
        driver.create_place(expires=86_400.0)
        yield driver


class TestContract(BlobsContract):
    has_missing_place = True

    @pytest.fixture
    def driver(self, storage: Endpoint, bucket: str) -> Iterator[CloudStorage]:
        with closing(opened(storage, bucket)) as driver:
            driver.create_place(expires=86_400.0)
            yield driver

    @pytest.fixture
    def another(self, storage: Endpoint, bucket: str) -> Iterator[CloudStorage]:
        with closing(opened(storage, bucket)) as driver:
            yield driver

    @pytest.fixture
    def missing_place(self, storage: Endpoint) -> Iterator[CloudStorage]:
        with closing(opened(storage, unique("missing"))) as driver:
            yield driver


@pytest.fixture
def google() -> Iterator[Answering]:
    with serving(Answering(Answer(body=b"{}"))) as server:
        yield server


@pytest.fixture
def told(google: Answering) -> Iterator[CloudStorage]:
    with closing(open_blobs(parse(f"gs://bucket/p?emulator={google.url}"))) as driver:
        yield driver


def test_prefixes_share_a_bucket(storage: Endpoint, driver: CloudStorage, bucket: str) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(b"ours"), 4)
    for prefix in ("", "shop", "shop/pay"):
        with closing(opened(storage, bucket, prefix=prefix)) as other:
            assert not other.list(after=None, limit=10).blobs
            other.put(key, io.BytesIO(b"theirs"), 6)
            other.delete([key])
    assert [blob.key for blob in driver.list(after=None, limit=10).blobs] == [key]
    assert b"".join(driver.read(key)) == b"ours"


def rules(storage: Endpoint, bucket: str) -> list[Any]:
    found = requests.get(f"{storage.url}/storage/v1/b/{bucket}", timeout=10).json()
    return found["lifecycle"]["rule"]


def rule(days: int, **more: Any) -> dict[str, Any]:
    return {"action": {"type": "Delete"}, "condition": {"age": days, **more}}


def test_rules_of_others_stay(storage: Endpoint, driver: CloudStorage, bucket: str) -> None:
    theirs = [
        rule(3, matchesPrefix=["logs/"]),
        rule(9, matchesPrefix=["shop/payloads/"], isLive=False),
        {
            "action": {"type": "SetStorageClass", "storageClass": "COLDLINE"},
            "condition": {"age": 1},
        },
    ]
    wanted = {"lifecycle": {"rule": theirs}}
    requests.patch(f"{storage.url}/storage/v1/b/{bucket}", json=wanted, timeout=10)
    driver.create_place(expires=86_400.0)
    driver.create_place(expires=1.5 * 86_400.0)
    ours = rule(2, matchesPrefix=["shop/payloads/"])
    assert rules(storage, bucket) == [*theirs, ours]
    with closing(opened(storage, bucket, prefix="")) as whole:
        for days in (7, 8):
            whole.create_place(expires=days * 86_400.0)
    assert rules(storage, bucket) == [*theirs, ours, rule(8)]


def test_a_bucket_is_made_where_it_is_to_be_and_nobody_else_s(google: Answering) -> None:
    made = b'{"metageneration": "1"}'
    google.answers = [Answer(status=404), Answer(body=made), Answer(body=b"{}")]
    url = f"gs://bucket?emulator={google.url}&project=my-project&location=europe-west1"
    with closing(open_blobs(parse(url))) as driver:
        driver.create_place(expires=86_400.0)
    _, create, rule_set = google.asked
    assert create.path == "/storage/v1/b?project=my-project"
    assert json.loads(create.body) == {
        "name": "bucket",
        "location": "europe-west1",
        "iamConfiguration": {
            "publicAccessPrevention": "enforced",
            "uniformBucketLevelAccess": {"enabled": True},
        },
        "softDeletePolicy": {"retentionDurationSeconds": "0"},
    }
    assert rule_set.path == "/storage/v1/b/bucket?ifMetagenerationMatch=1"


def test_requests_are_counted_by_the_kind_of_blob(driver: CloudStorage) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(bytes(LARGE)), LARGE)
    list(driver.read(key))
    driver.list(after=None, limit=10)
    driver.delete([key, new_key()])
    rows = {spot: (row.requests, row.units) for spot, row in driver.meter.rows().items()}
    assert rows["put", "messages", "cloud_storage_write"] == (1, 1)  # its parts are free
    assert rows["get", "messages", "cloud_storage_read"] == (1, 1)
    assert rows["query", "", "cloud_storage_write"] == (1, 1)
    assert rows["delete", "", ""] == (2, 0)


# ---- what only the service itself does


def ranges(google: Answering) -> list[str]:
    return [each.headers["Content-Range"] for each in google.asked[1:]]


def test_an_upload_goes_on_from_what_google_has(google: Answering, told: CloudStorage) -> None:
    upload = {"Location": f"{google.url}/session"}
    google.answers = [
        Answer(headers=upload),
        Answer(status=308, headers={"Range": "bytes=0-4194303"}),  # half of the part
        Answer(status=503),
        Answer(status=308, headers={"Range": "bytes=0-6291455"}),
        Answer(body=b'{"size": "%d"}' % (LARGE // 2)),
    ]
    told.put(new_key(), io.BytesIO(bytes(LARGE // 2)), LARGE // 2)
    assert ranges(google) == [
        "bytes 0-8388607/10485760",
        "bytes 4194304-10485759/10485760",
        "bytes */10485760",
        "bytes 6291456-10485759/10485760",
    ]
    assert [len(each.body) for each in google.asked] == [0, 8 << 20, 6 << 20, 0, 4 << 20]


def test_an_upload_without_progress_ends(google: Answering, told: CloudStorage) -> None:
    upload = {"Location": f"{google.url}/session"}
    google.answers = [Answer(headers=upload), Answer(status=308)]
    with pytest.raises(Exception, match="no more than 0 bytes are taken") as caught:
        told.put(new_key(), io.BytesIO(bytes(LARGE)), LARGE)
    assert told.error_code(caught.value) is Code.UNREACHABLE
    assert google.asked[-1].method == "DELETE"  # and the upload is called off


def test_an_upload_that_stored_less_is_an_error(google: Answering, told: CloudStorage) -> None:
    google.answers = [Answer(headers={"Location": f"{google.url}/x"}), Answer(body=b'{"size":"1"}')]
    with pytest.raises(Exception, match="cut or not the service's") as caught:
        told.put(new_key(), io.BytesIO(bytes(LARGE)), LARGE)
    assert told.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_request_is_tried_again(google: Answering, told: CloudStorage, status: int) -> None:
    google.answers = [Answer(status=status), Answer(body=b"whole", headers=OF_GOOGLE)]
    assert b"".join(told.read(new_key())) == b"whole"


def test_a_blob_that_comes_cut_is_an_error(google: Answering, told: CloudStorage) -> None:
    google.answers = [Answer(body=bytes(3 << 20), cut=2 << 20, headers=OF_GOOGLE)]
    reading = told.read(new_key())
    assert len(next(reading)) == 1 << 20
    with pytest.raises(Exception) as caught:
        list(reading)
    assert told.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(status=404, body=b"<html>no such page</html>"), Code.UNREACHABLE),
        (Answer(status=404, body=b"The specified bucket does not exist."), Code.NOT_FOUND),
        (Answer(status=403, body=b'{"error": {"message": "no"}}'), Code.DENIED),
        (Answer(status=401), Code.CREDENTIALS),
        (Answer(body=b"all of it, from its start"), Code.UNREACHABLE),
        (Answer(status=302, headers={"Location": "/login"}), Code.UNREACHABLE),
    ],
)
def test_what_is_no_answer_about_a_blob_is_an_error(
    google: Answering, told: CloudStorage, answer: Answer, code: Code
) -> None:
    google.answers = [answer]
    with pytest.raises(Exception) as caught:
        told.read(new_key(), start=5)
    assert not isinstance(caught.value, BlobGone)
    assert told.error_code(caught.value) is code


def test_an_empty_answer_is_none(google: Answering, told: CloudStorage) -> None:
    google.answers = [Answer()]
    for tried in (
        lambda: told.put(new_key(), io.BytesIO(b"x"), 1),
        lambda: told.put(new_key(), io.BytesIO(bytes(LARGE)), LARGE),
        lambda: told.read(new_key()),
        lambda: told.list(after=None, limit=5),
    ):
        with pytest.raises(Exception, match="the answer is cut") as caught:
            tried()
        assert told.error_code(caught.value) is Code.UNREACHABLE


def test_google_s_own_words_for_a_missing_blob(google: Answering, told: CloudStorage) -> None:
    google.answers = [Answer(status=404, body=b"No such object: bucket/p/messages/x")]
    with pytest.raises(BlobGone):
        told.read(new_key())
    google.answers = [Answer(status=416)]
    assert not list(told.read(new_key(), start=5))


def test_what_is_not_deleted_is_told(google: Answering, told: CloudStorage) -> None:
    google.answers = [Answer(status=403, body=b'{"error": {"message": "not you"}}')]
    [failure] = told.delete([new_key()])
    assert (failure.index, failure.code) == (0, Code.DENIED)
    assert "not you" in failure.reason


def test_pages_of_google_are_followed(google: Answering, told: CloudStorage) -> None:
    first, second = sorted([new_key(), new_key()])
    item = '{"name": "p/%s", "size": "1", "updated": "2026-11-30T10:00:00.000Z"}'
    page = f'{{"items": [{item % first}, {item % second}], "nextPageToken": "x"}}'
    google.answers = [Answer(body=page.encode())]
    found = told.list(after=first, limit=1)
    assert [blob.key for blob in found.blobs] == [second]
    assert found.next == second
    asked = parse_qs(urlsplit(google.asked[0].path).query)
    assert (asked["startOffset"], asked["maxResults"]) == ([f"p/{first}"], ["2"])
    google.answers = [Answer(body=b'{"nextPageToken": "x"}')]
    with pytest.raises(Exception, match="cut or not the service's"):
        told.list(after=None, limit=5)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gs://", "names no bucket"),
        ("gs://No_Bucket", "names no bucket"),
        ("gs://bucket/a//b", "a prefix is of letters"),
        ("gs://bucket?size=3", "no option 'size'"),
        ("gs://bucket?emulator=127.0.0.1:1&project=X", "not the id of a Google project"),
        ("gs://bucket?emulator=ftp://x", "no host of Cloud Storage"),
        ("gs://bucket", "no Google credentials"),
    ],
)
def test_a_wrong_url(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        plugins.open_blobs(url)


def test_a_project_is_needed_for_a_new_bucket_alone(google: Answering) -> None:
    google.answers = [Answer(status=404)]
    with closing(open_blobs(parse(f"gs://bucket?emulator={google.url}"))) as driver:
        with pytest.raises(Exception, match="project=") as caught:
            driver.create_place(expires=1.0)
        assert driver.error_code(caught.value) is Code.INVALID
