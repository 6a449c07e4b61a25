"""Large values by claim check: they lie in a blob store, and claims travel in their places.

A claim is `{"$blob": {"key": .., "size": .., "sha256": .., "as": "json" | "bytes" | "text"}}`, and
never a URL, so that a message cannot name another place than the setting `payload_store`. What
comes back has the size and the hash of the claim, which is as trustworthy as its message.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import orjson

from cloudq.clock import Backoff, Clock, real_time
from cloudq.driver import Code
from cloudq.driver.advice import explain
from cloudq.driver.blobs import BLOB_KEY, BlobAdmin, BlobGone, Blobs
from cloudq.driver.forks import Driven
from cloudq.driver.immutable import immutable
from cloudq.driver.log import Log
from cloudq.errors import (
    CloudQError,
    ConfigurationError,
    DecodeError,
    PayloadError,
    PayloadGone,
)
from cloudq.messages.json_text import is_list, is_object
from cloudq.messages.payload_places import READING, inside_stored
from cloudq.messages.sealed_payloads import Sealing, opened
from cloudq.messages.size import check_text

if TYPE_CHECKING:
    from cloudq.messages.encryption import Encryption

log = Log("cloudq.payloads")

MESSAGES, RESULTS, FILES = "messages", "results", "files"
"""The kinds of blobs: arguments of one message, values of records, and files."""

_FORMS = ("json", "bytes", "text")
_SHA256 = 64  # hexadecimal digits
_TRIES = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_AGAIN = frozenset({Code.THROTTLED, Code.UNREACHABLE, Code.UNKNOWN})
_NO_PLACE = (
    'there is no such place: "cloudq queues create --store" makes it, '
    "or check the name, the region and the account"
)


@immutable
class Claim:
    """The place of a value in the blob store: the key, the size in bytes, and what it is there.

    Of one that is `sealed` size and hash are those of what opens. One that is `kept` stays until it
    expires: several calls may have it.
    """

    key: str
    size: int
    sha256: str
    form: str
    sealed: bool = False
    kept: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the wire value."""
        said = {"key": self.key, "size": self.size, "sha256": self.sha256, "as": self.form}
        marks = {name: True for name in ("sealed", "kept") if getattr(self, name)}
        return {"$blob": said | marks}

    @classmethod
    def from_wire(cls, content: Any) -> Claim:
        """Read the content of a tag. Raises `ValueError` for what is no claim."""
        if not is_object(content) or content.get("as") not in _FORMS:
            raise ValueError("it is no claim to a blob")
        kept = content.get("kept") is True
        return cls(**place_in(content), form=content["as"], kept=kept)


def place_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return key, size and hash in the content of a tag. Raises `ValueError`."""
    key, size, sha256 = content.get("key"), content.get("size"), content.get("sha256")
    if not isinstance(key, str) or BLOB_KEY.fullmatch(key) is None:
        raise ValueError("it has no key of a blob")
    if type(size) is not int or size < 0:
        raise ValueError("it has no size")
    if not isinstance(sha256, str) or len(sha256) != _SHA256:
        raise ValueError("it has no hash")
    return {"key": key, "size": size, "sha256": sha256, "sealed": content.get("sealed") is True}


@immutable
class Unfetched:
    """A large value where nobody fetches it: for display, and to be sent on as it is."""

    claim: Claim

    def __repr__(self) -> str:
        return f"<{self.claim.size:,} bytes in the payload store>"

    def __wire__(self) -> dict[str, Any]:
        """Return the claim, as which it is sent on."""
        return self.claim.to_wire()


class Payloads(Driven[Blobs]):
    """The large values of one app. Safe to use from many threads.

    None is larger than `most` bytes. With `encryption` they are sealed for `app`, and where it
    says so only sealed ones are read. Every method raises `PayloadError` when the store refuses
    or cannot be reached, also after some tries.
    """

    def __init__(
        self,
        driver: Blobs,
        *,
        url: str,
        most: int,
        app: str = "",
        encryption: Encryption | None = None,
        clock: Clock = real_time,
        sleep: Callable[[float], None] = time.sleep,
        reopen: Callable[[], Blobs] | None = None,
    ) -> None:
        super().__init__(driver, reopen)
        self.url = url
        self.most = most
        self._app = app
        self._encryption = encryption
        self._clock = clock
        self._sleep = sleep

    def new_key(self, kind: str) -> str:
        """Make the key of a new blob; the day in it helps those who look into the store."""
        day = time.strftime("%Y-%m-%d", time.gmtime(self._clock()))
        return f"{kind}/{day}/{secrets.token_hex(16)}"

    def claim(self, kind: str, wire: Any, text: bytes) -> tuple[Claim, bytes]:
        """Return the claim to a wire value, whose JSON is `text`, and the content to be stored.

        Bytes and texts are stored as they are, so that nobody needs them twice to read them.
        """
        form, content = _content(wire, text)
        sha256 = hashlib.sha256(content).hexdigest()
        key = self.new_key(kind)
        made = Claim(key=key, size=len(content), sha256=sha256, form=form, sealed=self.seals)
        self.check_size(made.size, "a value", ConfigurationError)
        return made, content

    @property
    def seals(self) -> bool:
        """Tell whether what is stored is encrypted."""
        return self._encryption is not None

    def store(self, key: str, content: BinaryIO, size: int) -> None:
        """Store content under a key, with some tries. Raises `KeyServiceError` too."""
        if self._encryption is not None:
            sealed: Any = Sealing(self._encryption, self._app, key, content, size)
            content, size = sealed, sealed.length
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        for tries_left in reversed(range(_TRIES)):
            try:
                with self.trying("write", key):
                    self.driver.put(key, content, size)
                return
            except PayloadError as error:
                if error.code not in _AGAIN or not tries_left:
                    raise
            self._sleep(backoff.failed())

    def value(self, claim: Claim) -> Any:
        """Fetch a wire value, and check that it is what was stored.

        Raises `PayloadGone`, and `DecodeError` where it is not the same.
        """
        self.check_size(claim.size, "its value", DecodeError)
        buffer = io.BytesIO()
        for part in self.parts(claim.key, claim.size, claim.sha256, sealed=claim.sealed):
            buffer.write(part)
        data = buffer.getvalue()
        if claim.form == "bytes":
            return data
        try:
            if claim.form == "text":
                return data.decode()
            check_text(data, "value")
            return orjson.loads(data)
        except ValueError as error:
            raise DecodeError(f"the stored value {claim.key} is malformed: {error}") from error

    def parts(self, key: str, size: int, sha256: str, *, sealed: bool) -> Generator[bytes]:
        """Read a blob in parts, and check it at its end; a broken connection is made anew.

        Raises `DecodeError` for what is not what was stored, and `KeyServiceError`.
        """
        if not sealed and self._encryption is not None and self._encryption.required:
            raise DecodeError(f"{key} is not encrypted: this app accepts only what is")
        raw = self._whole(key)
        hashed, length = hashlib.sha256(), 0
        try:
            for part in opened(self._encryption, key, raw) if sealed else raw:
                length += len(part)
                if length > size:
                    raise _other(key)
                hashed.update(part)
                yield part
        finally:
            raw.close()
        if length != size or hashed.hexdigest() != sha256:
            raise _other(key)

    def _whole(self, key: str) -> Generator[bytes]:
        """Read a blob as it is stored; where a read breaks off, another goes on."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        length = tries = 0
        while True:
            try:
                for part in self._read(key, length):
                    length += len(part)
                    tries = 0
                    yield part
                return
            except PayloadError as error:
                tries += 1
                if error.code not in _AGAIN or tries == _TRIES:
                    raise
            self._sleep(backoff.failed())

    def _read(self, key: str, start: int) -> Generator[bytes]:
        """Read a blob from a place on; only what the driver raises becomes an error of cloudq."""
        with self.trying("read", key):
            reading = self.driver.read(key, start=start)
        try:
            while True:
                with self.trying("read", key):
                    part = next(reading, b"")
                if not part:
                    return
                yield part
        finally:
            reading.close()

    def delete(self, keys: Sequence[str]) -> None:
        """Delete blobs that nobody needs any more; a failure is logged, and left to sweeping."""
        if not keys:
            return
        size = self.driver.most_deleted
        for start in range(0, len(keys), size):
            batch = keys[start : start + size]
            try:
                with self.trying("delete", batch[0]):
                    failures = self.driver.delete(batch)
            except CloudQError as error:
                log.warning("%d payloads stay until they expire: %s", len(batch), error)
                continue
            for failure in failures:
                log.warning("%s stays until it expires: %s", batch[failure.index], failure.reason)

    def sweep(self, *, older: float) -> tuple[int, int]:
        """Delete blobs that were written more than `older` seconds ago; how many, and their bytes.

        For places without a rule that does it.
        """
        count, size, after = 0, 0, None
        before = self._clock() - older
        while True:
            with self.trying("list", "payloads"):
                page = self.driver.list(after=after, limit=self.driver.most_deleted)
            old = [blob for blob in page.blobs if blob.written < before]
            if old:
                with self.trying("delete", old[0].key):
                    failures = self.driver.delete([blob.key for blob in old])
                stays = {failure.index for failure in failures}
                gone = [blob.size for index, blob in enumerate(old) if index not in stays]
                count, size = count + len(gone), size + sum(gone)
                if failures:
                    first = failures[0]
                    raise PayloadError(f"{old[first.index].key}: {first.reason}", code=first.code)
            if page.next is None:
                return count, size
            after = page.next

    def create(self, *, expires: float) -> bool:
        """Make the place, with a rule that deletes what is older; False where it makes itself."""
        if not isinstance(self.driver, BlobAdmin):
            return False
        with self.trying("create the place of", "payloads"):
            self.driver.create_place(expires=expires)
        return True

    def reach(self) -> None:
        """Ask for the place, as far as it can be without a write."""
        if isinstance(self.driver, BlobAdmin):
            with self.trying("reach the place of", "payloads"):
                self.driver.check_place()

    def check(self) -> None:
        """Write a small payload, read it, and delete it."""
        content = b"cloudq-doctor"
        claim, _ = self.claim(MESSAGES, content.decode(), content)
        self.store(claim.key, io.BytesIO(content), len(content))
        self.value(claim)
        with self.trying("delete", claim.key):
            for failure in self.driver.delete([claim.key]):
                raise PayloadError(failure.reason, code=failure.code)

    def ended(self, verb: str, name: str, error: BaseException | None) -> None:
        """Raise `PayloadError` in place of what the driver raised."""
        if isinstance(error, BlobGone):
            raise PayloadGone(
                f"{name} is not in {self.url} any more: it was deleted, or has expired"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, CloudQError):
            code = self.driver.error_code(error)
            tried = f"{verb} {name!r} in {self.url}"
            text = explain(tried, code, error, missing=_NO_PLACE, driver=self.driver)
            raise PayloadError(text, code=code) from error

    def check_size(self, size: int, what: str, error: type[CloudQError]) -> None:
        """Raise this error for what is larger than the setting `payload_limit`."""
        if size > self.most:
            raise error(
                f"{what} is {size:,} bytes, and this app takes {self.most:,}: see payload_limit"
            )


def _other(key: str) -> DecodeError:
    return DecodeError(f"{key} is not what was stored: its size or its hash differs")


def _content(wire: Any, text: bytes) -> tuple[str, bytes]:
    """Return what of a wire value is stored, and how."""
    if type(wire) is str:
        return "text", wire.encode()
    if is_object(wire) and len(wire) == 1 and type(encoded := wire.get("$bytes")) is str:
        import base64

        return "bytes", base64.b64decode(encoded)
    return "json", text


# ---- as wire values


def read_claim(content: Any) -> Any:
    """Read the content of a `$blob` tag: the value itself, or `Unfetched` where nobody fetches it.

    Raises `ValueError`, `DecodeError`, `PayloadError` and `ConfigurationError`.
    """
    claim = Claim.from_wire(content)
    opens = READING.get()
    if opens is None:
        return Unfetched(claim=claim)
    payloads = opens()
    if payloads is None:
        raise ConfigurationError(
            f"a value of {claim.size:,} bytes is in a payload store, and this app has none: "
            "set payload_store to that of the sender"
        )
    found = payloads.value(claim)
    if claim.form != "json":
        return found
    from cloudq.messages.values import check_depth, from_wire

    check_depth(found, what="the stored value's parts")
    with inside_stored(opens):
        return from_wire(found)


def keys_in(node: Any, kind: str = MESSAGES) -> list[str]:
    """Return the keys of the claims of one kind in wire values, each once, without kept ones."""
    found: dict[str, None] = {}
    level = [node]
    while level:
        inside: list[Any] = []
        for each in level:
            if is_list(each):
                inside += each
            elif is_object(each):
                inside += each.values()
                content = each.get("$blob", {})
                if not is_object(content) or content.get("kept") is True:
                    continue
                key: Any = content.get("key")
                if _is_of(kind, key):
                    found[key] = None
        level = inside
    return list(found)


def _is_of(kind: str, key: Any) -> TypeGuard[str]:
    return isinstance(key, str) and key.startswith(f"{kind}/") and bool(BLOB_KEY.fullmatch(key))
