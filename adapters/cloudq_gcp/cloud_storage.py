"""Blobs in Google's Cloud Storage: `gs://bucket/prefix?project=P&location=europe-west1`.

Options, beside `endpoint`, and `emulator` or STORAGE_EMULATOR_HOST for a stand-in: `project` and
`location` are of a bucket that is to be made.

Who sends and runs tasks needs storage.objects.create, get and delete, and list too: without it
Cloud Storage answers 403 in place of 404 for a blob that is gone (`roles/storage.objectUser`).
"""

# google-auth and requests are typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
import re
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime
from typing import Any, BinaryIO

import requests
from google.api_core import exceptions as sdk
from urllib3.exceptions import HTTPError

from cloudq.clock import Backoff
from cloudq.driver import Address, Code, Failure
from cloudq.driver.billing import DELETE, GET, OTHER, PUT, QUERY
from cloudq.driver.blob_content import NoBlob, checked, part_of
from cloudq.driver.blobs import BLOB_KEY, Blob, BlobGone, BlobPage
from cloudq_gcp.errors import REQUEST_ERRORS, GcpError, error_code, incomplete
from cloudq_gcp.storage_client import NOT_FOUND, Fields, Storage, connect, error_of, is_gone, told

# Bytes of a part that is sent, a multiple of 256 KiB, and of one that is read.
_PART, _READ = 8 << 20, 1 << 20
# Deletes of one call, each a request, and how many are made at a time.
_DELETED, _THREADS = 100, 16
# Tries without progress of an upload.
_TRIES = 4
_DAY = 86_400
_HALF, _CUT, _ENDS_BEFORE = 308, 499, 416
_LAST = re.compile(r"bytes=0-([0-9]+)")
# A key that no blob has.
_NOWHERE = "check/nothing"
_BYTES = "application/octet-stream"


def open_blobs(address: Address) -> CloudStorage:
    """The driver of a `gs://` URL. Raises `ConfigurationError`."""
    storage, prefix = connect(address)
    return CloudStorage(storage, prefix=prefix, location=address.options.get("location", ""))


class CloudStorage:
    """A `Blobs` and `BlobAdmin` of objects in one bucket, under a prefix."""

    most_deleted = _DELETED

    def __init__(self, storage: Storage, *, prefix: str = "", location: str = "") -> None:
        self.meter = storage.meter
        self._storage = storage
        self._prefix = prefix
        self._location = location

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        name, kind = self._name(key), _kind(key)
        if not 0 < size <= _PART:  # the emulator takes nothing empty in one request
            self._put_parts(name, kind, content, size)
            return
        body = part_of(content, 0, size, _PART)
        self._storage.ask(
            "POST",
            self._storage.uploads,
            params={"uploadType": "media", "name": name},
            headers={"Content-Type": _BYTES},
            data=body,
            call=PUT,
            place=kind,
        )

    def _put_parts(self, name: str, kind: str, content: BinaryIO, size: int) -> None:
        """Upload a content part by part: there is no object before the last one."""
        begun = self._storage.send(
            "POST",
            self._storage.uploads,
            params={"uploadType": "resumable", "name": name},
            headers={"X-Upload-Content-Type": _BYTES, "X-Upload-Content-Length": str(size)},
            call=PUT,
            place=kind,
        )
        if not begun.ok:
            raise error_of(begun)
        upload = begun.headers.get("Location")
        if not upload:
            raise incomplete("the upload's address")
        try:
            self._upload(upload, content, size)
        except BaseException:
            with suppress(Exception):  # else it is forgotten after a week
                self._storage.send("DELETE", upload, call=OTHER, tries=1)
            raise

    def _upload(self, upload: str, content: BinaryIO, size: int) -> None:
        """Send the parts, each from where Google says that it has all before."""
        start = 0
        backoff = Backoff(0.1, 2.0)
        while True:
            part = part_of(content, start, size, _PART)
            given = f"bytes {start}-{start + len(part) - 1}/{size}" if part else "bytes */0"
            answer = self._sent(upload, given, part)
            if answer is None:  # lost, or refused for now: some of the part may be there
                answer = self._storage.send(
                    "PUT", upload, headers={"Content-Range": f"bytes */{size}"}, call=OTHER
                )
            if answer.status_code in (200, 201):
                _check_size(told(answer), size)
                return
            if answer.status_code != _HALF:
                raise error_of(answer)
            there = _LAST.fullmatch(answer.headers.get("Range", ""))
            reached = int(there[1]) + 1 if there else 0
            if start < reached < size:
                backoff.succeeded()
            elif backoff.failures == _TRIES:
                raise sdk.ServiceUnavailable(f"no more than {reached:,} bytes are taken")
            else:
                time.sleep(backoff.failed())
            start = max(0, min(reached, size - 1))

    def _sent(self, upload: str, given: str, part: bytes) -> requests.Response | None:
        headers = {"Content-Range": given, "Content-Type": _BYTES}
        try:
            return self._storage.send(
                "PUT", upload, headers=headers, data=part, call=OTHER, tries=1
            )
        except (sdk.ServerError, sdk.TooManyRequests):
            return None

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        url = self._storage.object(self._name(key), content=True)
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        answer = self._storage.send(
            "GET",
            url,
            params={"alt": "media"},
            headers=headers,
            stream=True,
            call=GET,
            place=_kind(key),
        )
        if answer.status_code in (200, 206) and _is_content(answer, start):
            return _parts(answer)
        with closing(answer):
            if answer.status_code == _ENDS_BEFORE:
                return _nothing()
            if answer.status_code == NOT_FOUND and is_gone(answer):
                raise BlobGone(key)
            if answer.ok:
                raise incomplete("a blob's content, or its range")
            raise error_of(answer)

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        wanted = {key: self._name(key) for key in keys}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudq-storage") as threads:
            errors = dict(zip(wanted, threads.map(self._delete, wanted.values()), strict=True))
        return [
            Failure(index=index, code=self.error_code(error), reason=str(error))
            for index, key in enumerate(keys)
            if (error := errors[key]) is not None
        ]

    def _delete(self, name: str) -> Exception | None:
        """Delete one object, and return what went wrong."""
        try:
            answer = self._storage.send("DELETE", self._storage.object(name), call=DELETE)
            if not answer.ok and not (answer.status_code == NOT_FOUND and is_gone(answer)):
                raise error_of(answer)
        except REQUEST_ERRORS as error:
            return error
        return None

    def list(self, *, after: str | None, limit: int) -> BlobPage:
        params = {
            "prefix": self._prefix,
            "maxResults": str(limit),
            "fields": "items(name,size,updated),nextPageToken",
        }
        if after is not None:  # it is in the page that begins there, so there is one more
            params |= {"startOffset": self._prefix + after, "maxResults": str(limit + 1)}
        page = self._storage.ask("GET", f"{self._storage.bucket}/o", params=params, call=QUERY)
        items = [self._item(each) for each in page.get("items", ())]
        # Stand-ins know neither of them.
        items = sorted(each for each in items if each[0] > (after or ""))
        has_more = len(items) > limit or "nextPageToken" in page
        items = items[:limit]
        if has_more and not items:
            raise incomplete("what was asked for")  # a list would never end
        found = [
            Blob(key=key, size=int(size), written=datetime.fromisoformat(updated).timestamp())
            for key, size, updated in items
            if BLOB_KEY.fullmatch(key)
        ]
        return BlobPage(blobs=found, next=items[-1][0] if has_more else None)

    def _item(self, item: Fields) -> tuple[str, str, str]:
        """Return the key of an object, its size and its time. Raises `GcpError`."""
        name, size, updated = item.get("name"), item.get("size"), item.get("updated")
        if not (isinstance(name, str) and isinstance(updated, str) and str(size).isdecimal()):
            raise incomplete("an object's name, size or time")
        return name.removeprefix(self._prefix), str(size), updated

    def create_place(self, *, expires: float) -> None:
        """Make the bucket, which nobody else can read, if it is not there, and set our rule.

        Rules have no names there: ours is the one that deletes what is under the prefix by its age
        alone, and without a prefix the one that so deletes all.
        """
        bucket = self._bucket() or self._create()
        days = max(1, math.ceil(expires / _DAY))
        condition: dict[str, Any] = {"age": days}
        if self._prefix:
            condition["matchesPrefix"] = [self._prefix]
        ours = {"action": {"type": "Delete"}, "condition": condition}
        rules: list[Any] = bucket.get("lifecycle", {}).get("rule", [])
        kept = [rule for rule in rules if not _is_like(rule, ours)]
        self._storage.ask(
            "PATCH",
            self._storage.bucket,
            params={"ifMetagenerationMatch": str(bucket["metageneration"])},
            json={"lifecycle": {"rule": [*kept, ours]}},
            call=OTHER,
        )

    def _bucket(self) -> Fields | None:
        answer = self._storage.send("GET", self._storage.bucket, call=OTHER)
        if answer.status_code == NOT_FOUND:
            return None
        if not answer.ok:
            raise error_of(answer)
        return told(answer)

    def _create(self) -> Fields:
        if not self._storage.project:
            raise GcpError("a new bucket needs gs://...?project=", code=Code.INVALID)
        wanted: dict[str, Any] = {
            "name": self._storage.bucket.rpartition("/")[2],
            "iamConfiguration": {
                "publicAccessPrevention": "enforced",
                "uniformBucketLevelAccess": {"enabled": True},
            },
            # Else what is deleted is kept, and billed, for another week.
            "softDeletePolicy": {"retentionDurationSeconds": "0"},
        }
        if self._location:
            wanted["location"] = self._location
        params = {"project": self._storage.project}
        return self._storage.ask(
            "POST", self._storage.buckets, params=params, json=wanted, call=OTHER, tries=1
        )

    def check_place(self) -> None:
        """List a blob that is not there: it needs no right that a worker lacks."""
        self._storage.ask(
            "GET",
            f"{self._storage.bucket}/o",
            params={"prefix": self._prefix + _NOWHERE, "maxResults": "1"},
            call=QUERY,
        )

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return Code.INVALID if isinstance(error, NoBlob) else error_code(error)

    def close(self) -> None:
        """Close the connections."""
        self._storage.close()

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)


def _kind(key: str) -> str:
    return key.partition("/")[0]


def _is_like(rule: Fields, ours: Fields) -> bool:
    """Tell whether a rule is ours, perhaps with another age."""
    condition = rule.get("condition", {})
    return (
        rule.get("action") == ours["action"]
        and {**condition, "age": 0} == {**ours["condition"], "age": 0}
        and "age" in condition
    )


def _is_content(answer: requests.Response, start: int) -> bool:
    """Tell whether an answer is of an object, and from there on."""
    if not start:
        return "X-Goog-Hash" in answer.headers
    return answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _check_size(stored: Fields, size: int) -> None:
    if stored.get("size") != str(size):
        raise incomplete(f"{size:,} bytes, and has {stored.get('size')}")


def _parts(answer: requests.Response) -> Generator[bytes]:
    with closing(answer):  # before its end it drops its connection
        raw = answer.raw
        while True:
            try:
                part: bytes = raw.read(_READ)
            except (HTTPError, OSError) as error:
                raise sdk.ServiceUnavailable(f"the blob comes cut: {error}") from error
            if not part:
                return
            yield part


def _nothing() -> Generator[bytes]:
    yield from ()
