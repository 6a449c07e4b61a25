"""Blobs in Azure's Blob storage: `azblob://account/container/prefix`.

`endpoint` is the account's own address, where it has one. Credentials are those of `aztables://`:
AZURE_STORAGE_CONNECTION_STRING, or an identity with the role Storage Blob Data Contributor.

Rules that delete old blobs belong to the storage account, and need rights to manage it: they are
set by `cloudq deploy`'s Terraform or by hand, not here.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobBlock, BlobClient, StorageStreamDownloader

from cloudq.driver import Address, Code, Failure
from cloudq.driver.blob_content import NoBlob, checked, part_of
from cloudq.driver.blobs import BLOB_KEY, Blob, BlobGone, BlobPage
from cloudq.driver.log import Log
from cloudq_azure.blobs_client import PART, Place, connect
from cloudq_azure.errors import SHAPELESS, error_code, incomplete
from cloudq_azure.identity import Identity

log = Log("cloudq.blobs")

# How many parts of a blob are on their way at once.
_AT_ONCE = 3
_PAGE = 5_000
# A key that no blob has.
_NOWHERE = "check/nothing"
_DAY = 86_400
_GONE, _ENDS_BEFORE = 404, "InvalidRange"


def open_blobs(address: Address) -> BlobStorage:
    """The driver of an `azblob://` URL. Raises `ConfigurationError`."""
    return BlobStorage(connect(address))


class BlobStorage:
    """A `Blobs` and `BlobAdmin` of block blobs in one container, under a prefix."""

    most_deleted = 256

    def __init__(self, place: Place) -> None:
        self.meter = place.meter
        # Safe from many threads, as all of the SDK's clients over HTTP are.
        self.client = place.client
        self._prefix = place.prefix

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        blob = self._blob(key)
        if size > PART:
            self._put_parts(blob, content, size)
            return
        blob.upload_blob(part_of(content, 0, size, PART), length=size, overwrite=True)

    def _put_parts(self, blob: BlobClient, content: BinaryIO, size: int) -> None:
        """Upload the parts, a few at a time, each of which is read only when it is its turn.

        They are a blob when all are there; else Azure forgets them after a week.
        """
        blocks: list[BlobBlock] = []
        under_way: list[Future[Any]] = []
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cloudq-blobs") as threads:
            for number, start in enumerate(range(0, size, PART)):
                if len(under_way) == _AT_ONCE:
                    under_way.pop(0).result()
                part = part_of(content, start, size, PART)
                blocks.append(BlobBlock(f"{number:05}"))
                under_way.append(
                    threads.submit(blob.stage_block, blocks[-1].id, part, length=len(part))
                )
                del part  # else it stays in memory while the next one is read
            for each in under_way:
                each.result()
        blob.commit_block_list(blocks)

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        try:
            found = self._blob(key).download_blob(offset=start or None)
        except ResourceNotFoundError as error:
            if _code(error) != "BlobNotFound":
                raise
            raise BlobGone(key) from error
        except HttpResponseError as error:
            if _code(error) != _ENDS_BEFORE:
                raise
            return _nothing()
        return _parts(found)

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        names = [self._name(key) for key in keys]
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return ()
        answers = list(self.client.delete_blobs(*wanted, raise_on_any_failure=False))
        if len(answers) != len(wanted):
            raise incomplete("a part for each blob")
        errors = {
            name: HttpResponseError(response=answer)
            for name, answer in zip(wanted, answers, strict=True)
            if not _is_deleted(answer)
        }
        return [
            Failure(index=index, code=self.error_code(errors[name]), reason=_reason(errors[name]))
            for index, name in enumerate(names)
            if name in errors
        ]

    def list(self, *, after: str | None, limit: int) -> BlobPage:
        listed: Any = self.client.list_blobs(
            name_starts_with=self._prefix or None, results_per_page=min(limit, _PAGE)
        )
        pages = listed.by_page(after)
        try:
            page = list(next(pages))
            found = [
                Blob(key=key, size=each.size, written=each.last_modified.timestamp())
                for each in page
                if BLOB_KEY.fullmatch(key := each.name.removeprefix(self._prefix))
            ]
        except SHAPELESS as error:
            raise incomplete("the list of blobs") from error
        following = pages.continuation_token or None
        if following is not None and following == after:
            raise incomplete("the page behind the last one")  # a list would never end
        return BlobPage(blobs=found, next=following)

    def create_place(self, *, expires: float) -> None:
        """Make the container, which nobody else can read, if it is not there; says what lacks."""
        try:
            self.client.create_container()
        except ResourceExistsError as error:
            if error_code(error) is not Code.EXISTS:  # it is being deleted
                raise
        log.warning(
            "no rule deletes what a crash leaves in %s: set a lifecycle rule of the storage account"
            " for blobs under %s that are %d days old, or run `cloudq sweep` each day",
            self.client.container_name,
            f"{self.client.container_name}/{self._prefix}",
            max(1, math.ceil(expires / _DAY)),
        )

    def check_place(self) -> None:
        """Look at a blob that is not there: it needs no right that a worker lacks."""
        try:
            self.client.get_blob_client(self._prefix + _NOWHERE).get_blob_properties()
        except ResourceNotFoundError as error:
            if _code(error) != "BlobNotFound":
                raise

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return Code.INVALID if isinstance(error, NoBlob) else error_code(error)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        if isinstance(self.client.credential, Identity):
            self.client.credential.close()

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)

    def _blob(self, key: str) -> BlobClient:
        return self.client.get_blob_client(self._name(key))


def _code(error: HttpResponseError) -> str:
    """Return the code in an answer that is an error, "" for none."""
    found: Any = getattr(error, "error_code", None)
    return str(getattr(found, "value", found) or "")


def _is_deleted(answer: Any) -> bool:
    code = answer.headers.get("x-ms-error-code")
    return 200 <= answer.status_code < 300 or (
        answer.status_code == _GONE and code == "BlobNotFound"
    )


def _reason(error: HttpResponseError) -> str:
    return str(error.message)


def _parts(found: StorageStreamDownloader[bytes]) -> Generator[bytes]:
    chunks: Iterator[bytes] = iter(found.chunks())
    yield from chunks


def _nothing() -> Generator[bytes]:
    yield from ()
