"""Blobs in Azure's Blob storage pass the contract; and what only it has."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing

import pytest

from cloudq.driver import Code
from cloudq.driver import loader as plugins
from cloudq.driver.blobs import BlobGone
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.testing import BlobsContract
from cloudq.testing.contracts.blobs import new_key
from cloudq_azure.blob_storage import BlobStorage, open_blobs
from localstack.azure import ACCOUNT
from localstack.servers import Endpoint
from tests.adapters.answering import Answer, Answering
from tests.servers import unique
from tests.support.serving import serving

LARGE = 20 << 20
OF_AZURE = {"x-ms-request-id": "1"}
KEY = "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=YWFhYQ=="


def opened(blobs: Endpoint, container: str, *, prefix: str = "shop/payloads") -> BlobStorage:
    url = f"azblob://{ACCOUNT}/{container}/{prefix}?endpoint={blobs.url}/{ACCOUNT}"
    return open_blobs(parse(url))


@pytest.fixture
def container() -> str:
    return unique("payloads")


@pytest.fixture
def driver(blobs: Endpoint, container: str) -> Iterator[BlobStorage]:
    with closing(opened(blobs, container)) as driver:
        driver.create_place(expires=86_400.0)
        yield driver


class TestContract(BlobsContract):
    has_missing_place = True

    @pytest.fixture
    def driver(self, blobs: Endpoint, container: str) -> Iterator[BlobStorage]:
        with closing(opened(blobs, container)) as driver:
            driver.create_place(expires=86_400.0)
            yield driver

    @pytest.fixture
    def another(self, blobs: Endpoint, container: str) -> Iterator[BlobStorage]:
        with closing(opened(blobs, container)) as driver:
            yield driver

    @pytest.fixture
    def missing_place(self, blobs: Endpoint) -> Iterator[BlobStorage]:
        with closing(opened(blobs, unique("missing"))) as driver:
            yield driver


@pytest.fixture
def azure() -> Iterator[Answering]:
    with serving(Answering(Answer())) as server:
        yield server


@pytest.fixture
def told(azure: Answering) -> Iterator[BlobStorage]:
    url = f"azblob://{ACCOUNT}/box/p?endpoint={azure.url}/{ACCOUNT}"
    with closing(open_blobs(parse(url))) as driver:
        yield driver


def test_a_failed_upload_leaves_what_was_there(driver: BlobStorage) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(b"before"), 6)
    with pytest.raises(ValueError, match="the content has"):
        driver.put(key, io.BytesIO(bytes(LARGE - 1)), LARGE)
    assert b"".join(driver.read(key)) == b"before"


def test_prefixes_share_a_container(blobs: Endpoint, driver: BlobStorage, container: str) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(b"ours"), 4)
    for prefix in ("", "shop", "shop/pay"):
        with closing(opened(blobs, container, prefix=prefix)) as other:
            assert not other.list(after=None, limit=10).blobs
            other.put(key, io.BytesIO(b"theirs"), 6)
            other.delete([key])
    assert [blob.key for blob in driver.list(after=None, limit=10).blobs] == [key]
    assert b"".join(driver.read(key)) == b"ours"


def test_that_nothing_deletes_old_blobs_is_told(
    driver: BlobStorage, container: str, caplog: pytest.LogCaptureFixture
) -> None:
    driver.create_place(expires=6.5 * 86_400.0)
    [record] = caplog.records
    assert f"blobs under {container}/shop/payloads/ that are 7 days old" in record.getMessage()
    assert "cloudq sweep" in record.getMessage()


def test_requests_are_counted_by_the_kind_of_blob(driver: BlobStorage) -> None:
    key = new_key()
    driver.put(key, io.BytesIO(bytes(LARGE)), LARGE)
    list(driver.read(key))
    driver.list(after=None, limit=10)
    driver.delete([key, new_key()])
    rows = {spot: (row.requests, row.units) for spot, row in driver.meter.rows().items()}
    assert rows["put", "messages", "blob_write"] == (4, 4)  # 3 parts, and the list of them
    assert rows["get", "messages", "blob_read"] == (5, 5)  # 4 MB each
    assert rows["query", "", "blob_write"] == (1, 1)
    assert rows["other", "", ""] == (1, 0)


def test_a_blob_that_comes_cut_is_an_error(azure: Answering, told: BlobStorage) -> None:
    headers = {
        **OF_AZURE,
        "Content-Range": f"bytes 0-{(3 << 20) - 1}/{3 << 20}",
        "ETag": '"1"',
        "Last-Modified": "Mon, 30 Nov 2026 19:00:00 GMT",
        "x-ms-blob-type": "BlockBlob",
    }
    azure.answers = [Answer(status=206, body=bytes(3 << 20), headers=headers, cut=2 << 20)]
    with pytest.raises(Exception) as caught:
        list(told.read(new_key()))
    assert told.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(status=404, body=b"<html>no such page</html>"), Code.UNREACHABLE),
        (Answer(body=b"<html>log in</html>"), Code.UNREACHABLE),
        (
            Answer(status=404, headers={**OF_AZURE, "x-ms-error-code": "ContainerNotFound"}),
            Code.NOT_FOUND,
        ),
        (
            Answer(status=403, headers={"x-ms-error-code": "AuthorizationPermissionMismatch"}),
            Code.DENIED,
        ),
        (Answer(status=503, headers={"x-ms-error-code": "ServerBusy"}), Code.THROTTLED),
    ],
)
def test_what_is_no_answer_about_a_blob_is_an_error(
    azure: Answering, told: BlobStorage, answer: Answer, code: Code
) -> None:
    azure.answers = [answer]
    with pytest.raises(Exception) as caught:
        told.read(new_key(), start=5)
    assert not isinstance(caught.value, BlobGone)
    assert told.error_code(caught.value) is code


def batch(*parts: str) -> Answer:
    boundary = "batchresponse_1"
    texts = [
        f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n{part}"
        for number, part in enumerate(parts)
    ]
    return Answer(
        status=202,
        headers={**OF_AZURE, "Content-Type": f"multipart/mixed; boundary={boundary}"},
        body=("".join(texts) + f"--{boundary}--\r\n").encode(),
    )


def test_what_is_not_deleted_is_told(azure: Answering, told: BlobStorage) -> None:
    done = "HTTP/1.1 202 Accepted\r\nx-ms-request-id: 1\r\n\r\n"
    gone = "HTTP/1.1 404 Not here\r\nx-ms-error-code: BlobNotFound\r\nContent-Length: 0\r\n\r\n"
    held = "HTTP/1.1 412 Held\r\nx-ms-error-code: LeaseIdMissing\r\nContent-Length: 0\r\n\r\n"
    azure.answers = [batch(done, gone, held)]
    keys = [new_key() for _ in range(3)]
    [failure] = told.delete(keys)
    assert (failure.index, failure.code) == (2, Code.DENIED)
    assert "Held" in failure.reason
    azure.answers = [batch(done)]
    with pytest.raises(Exception, match="it lacks a part for each blob") as caught:
        told.delete(keys)
    assert told.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("azblob://", "names no account and container"),
        ("azblob://shop", "names no account and container"),
        ("azblob://shop/No_Container", "names no account and container"),
        ("azblob://shop/box/a//b", "a prefix is of letters"),
        ("azblob://shop/box?size=3", "no option 'size'"),
        ("azblob://shop/box?endpoint=http://127.0.0.1:1", "tokens go over https only"),
    ],
)
def test_a_wrong_url(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        plugins.open_blobs(url)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (KEY, "https://shop.blob.core.windows.net/box"),
        (f"{KEY};BlobEndpoint=https://blobs.shop.example", "https://blobs.shop.example/box"),
        (
            "BlobEndpoint=https://shop.blob.core.windows.net;SharedAccessSignature=sv=1&sig=a%3D",
            "https://shop.blob.core.windows.net/box?sv=1&sig=a%3D",
        ),
    ],
)
def test_a_connection_string_is_taken(monkeypatch: pytest.MonkeyPatch, text: str, url: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with closing(open_blobs(parse("azblob://shop/box/payloads"))) as driver:
        assert driver.client.url == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "is no connection string"),
        (KEY.replace("shop", "other"), "is of the account other"),
        ("BlobEndpoint=https://shop.blob.core.windows.net", "neither a key nor a shared"),
    ],
)
def test_a_wrong_connection_string(monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with pytest.raises(ConfigurationError, match=says):
        plugins.open_blobs("azblob://shop/box/payloads")
