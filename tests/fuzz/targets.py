"""Readers of bodies: each takes one and says how it ended. All that it raises is wrong.

A body may be refused by an error of cloudq's own, which is the reason that an operator reads.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import orjson

from cloudq import File
from cloudq.cli.messages import _row  # pyright: ignore[reportPrivateUsage]
from cloudq.dashboard.pages.rows import pretty
from cloudq.driver import Code, Peeked
from cloudq.driver.blobs import BlobGone, BlobPage
from cloudq.driver.values import Failure
from cloudq.errors import CloudQError, DecodeError
from cloudq.messages.bundle import Bundle
from cloudq.messages.codec import Codec
from cloudq.messages.envelope import form_of
from cloudq.messages.message import TaskMessage
from cloudq.messages.payload_places import READING
from cloudq.messages.payloads import Claim, Payloads
from cloudq.messages.sealed_payloads import Sealing, opened
from cloudq.messages.values import dump_value, from_wire, load_value
from cloudq.operations.dead_letters import DeadFilter, grouped
from cloudq.operations.seen import read
from cloudq.text import json_text
from tests.fuzz import seeds
from tests.fuzz.drive import make_app
from tests.fuzz.recipes import APP, CELERY, ENCRYPTION, KEYRING, QUEUE, REQUIRED, Recipe

LIMIT = 262_144
"""Bytes that a body may have and open to."""
_ALL = frozenset({"json", "msgpack", "yaml", "pickle"})
_OPEN = Codec(
    limit=LIMIT,
    app=APP,
    apps=frozenset({APP}),
    accept=_ALL,
    keyring=KEYRING,
    encryption=ENCRYPTION,
    formats={CELERY: ["celery"]},
)
_CODECS = (
    *[(_OPEN, QUEUE)] * 7,
    (_OPEN, CELERY),
    (replace(_OPEN, signed_only=True), QUEUE),
    (replace(_OPEN, encrypted_only=True, encryption=REQUIRED), QUEUE),
    (Codec(limit=LIMIT, app=APP, apps=frozenset({APP})), QUEUE),
)


class Target(Protocol):
    """A reader of bodies. `share` is its part of a run, and `name` says what it reads.

    It takes so many bodies `at_once`: all but the last of these are only kept. Of the `wrapped`
    ones it takes what is in them, so that bytes of the wrapping are not spoilt.
    """

    name: str
    share: float
    at_once: int
    wrapped: bool

    def recipes(self) -> Sequence[Recipe]:
        """Return valid bodies."""
        ...

    def run(self, body: bytes) -> str:
        """Read a body, and say how it ended. Raises what is wrong."""
        ...

    def close(self) -> None: ...


class Wrong(AssertionError):
    """Raised for a body that ended as none may; `body` is set if it is not the one just given."""

    def __init__(self, what: str, body: bytes | None = None) -> None:
        super().__init__(what)
        self.body = body


class Messages:
    """Reads messages by apps that trust strangers more and less, and writes them again."""

    at_once = 1
    wrapped = False

    def __init__(self, name: str, share: float, recipes: Sequence[Recipe]) -> None:
        self.name = name
        self.share = share
        self._recipes = recipes
        self._turn = 0

    def recipes(self) -> Sequence[Recipe]:
        return self._recipes

    def run(self, body: bytes) -> str:
        self._turn += 1
        codec, queue = _CODECS[self._turn % len(_CODECS)]
        if self.name == "celery":
            queue = CELERY
        try:
            found = codec.read(body, queue=queue, limit=LIMIT)
        except DecodeError as error:
            if not str(error):
                raise Wrong("no reason") from error
            return "refused"
        if isinstance(found, Bundle):
            for call in islice(found.calls, 5):
                if isinstance(call, TaskMessage):
                    self._use(codec, call, queue)
            return f"bundle of {min(len(found.calls), 5)}"
        self._use(codec, found, queue)
        return "read"

    def close(self) -> None: ...

    def _use(self, codec: Codec, message: TaskMessage, queue: str) -> None:
        """Do what is done with a message: it is written again, and its arguments are read."""
        try:
            from_wire(message.args)
            from_wire(message.kwargs)
        except DecodeError:
            pass
        try:
            again = codec.encode(message.model_copy(update={"queue": queue}))
        except CloudQError as error:
            if message.protocol is None and "pickle" not in str(error):
                raise Wrong(f"it cannot be written again: {error}") from error
            return
        if len(again) > LIMIT // 2 or message.protocol is not None:
            return
        other = codec.decode(again, queue=queue, limit=LIMIT)
        if (other.id, other.task, other.args) != (message.id, message.task, message.args):
            raise Wrong(f"it comes back as {other!r:.300}")


class Shown:
    """Shows bodies, as `cloudq queues peek`, `cloudq dead` and the dashboard do."""

    name = "shown"
    share = 0.004
    at_once = 1
    wrapped = False

    def __init__(self) -> None:
        self._app = make_app("shown", max_body=LIMIT)

    def recipes(self) -> Sequence[Recipe]:
        return [*seeds.messages(), *seeds.bundled(), *seeds.celery()]

    def run(self, body: bytes) -> str:
        reason = body[:300].decode(errors="replace") if zlib.crc32(body) & 1 else None
        peeked = Peeked(
            handle="h", id=reason or "p", body=body, attempts=1, sent_at=1763700000.0, reason=reason
        )
        seen = read(peeked, self._app, QUEUE)
        for text in (seen.arguments(), seen.arguments(160), json_text(seen.as_json())):
            orjson.loads(orjson.dumps(text))
        for call in islice(seen.calls, 3):
            pretty([call.args, call.kwargs, call.headers])
        _row(seen, dead=bool(reason))
        seen.goes_by("x")
        form_of(body)
        DeadFilter(task="e*", error="x", exception="ValueError").matches(seen, 2e9)
        grouped([seen], "task", 2e9)
        grouped([seen], "exception", 2e9)
        return "unreadable" if seen.problem else "shown"

    def close(self) -> None:
        self._app.close()


class OneBlob:
    """A `Blobs` with one content, whatever the key, that comes in parts of `step` bytes."""

    most_deleted = 10

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.step = 70_001

    def put(self, key: str, content: io.RawIOBase, size: int) -> None:
        content.seek(0)
        parts: list[bytes] = []
        while part := content.read(1 << 20):
            parts.append(part)
        self.content = b"".join(parts)

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        if self.content is None:
            raise BlobGone(key)
        return self._parts(self.content, start)

    def _parts(self, content: bytes, start: int) -> Generator[bytes]:
        for at in range(start, len(content), self.step):
            yield content[at : at + self.step]

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        return ()

    def list(self, *, after: str | None, limit: int) -> BlobPage:
        return BlobPage(blobs=())

    def error_code(self, error: Exception) -> Code:
        return Code.UNKNOWN

    def close(self) -> None: ...


class Values:
    """Reads values of results: tags, claims to payloads, and files, of hostile content too."""

    name = "values"
    share = 0.4
    at_once = 1
    wrapped = False

    def __init__(self) -> None:
        self._blob = OneBlob()
        self._payloads = Payloads(
            self._blob, url="file:///x", most=LIMIT, app=APP, encryption=ENCRYPTION
        )
        self._sealed = Sealing(
            ENCRYPTION, APP, seeds.BLOB, io.BytesIO(seeds.HELD), len(seeds.HELD)
        ).read()
        self._last = seeds.HELD

    def recipes(self) -> Sequence[Recipe]:
        return seeds.values()

    def run(self, body: bytes) -> str:
        turn = zlib.crc32(body) % 8
        # What lies in the store is right, sealed, another's, or gone.
        content = (seeds.HELD, self._sealed, self._last[:LIMIT], None)[min(turn, 3)]
        self._blob.content = content if turn else seeds.HELD
        self._last = body
        token = READING.set(lambda: self._payloads)
        try:
            value = load_value(body.decode(errors="surrogatepass" if turn & 1 else "replace"))
            self._files(value)
            dump_value(value)
        except (UnicodeDecodeError, CloudQError):
            return "refused"
        finally:
            READING.reset(token)
        return "read"

    def close(self) -> None: ...

    def _files(self, value: Any) -> None:
        found = value if isinstance(value, list) else [value]
        for each in found:
            if isinstance(each, File):
                repr(each)
                hash(each)
                with each.open() as stream:
                    while stream.read(1 << 16):
                        pass


class SealedPayloads:
    """Reads payloads that are sealed in parts, and claims to what strangers have stored."""

    name = "payloads"
    share = 0.03
    at_once = 1
    wrapped = False

    def __init__(self) -> None:
        self._blob = OneBlob()
        self._payloads = Payloads(
            self._blob, url="file:///x", most=LIMIT, app=APP, encryption=ENCRYPTION
        )

    def recipes(self) -> Sequence[Recipe]:
        made: list[Recipe] = []
        for size in (*seeds.SIZES[:4], *seeds.SIZES[5:7]):
            data = b"x" * size
            sealed = Sealing(ENCRYPTION, APP, seeds.BLOB, io.BytesIO(data), size).read()
            made += [Recipe(whole=sealed)] * (6 if size < seeds.PART else 1)
        made += [Recipe(tree=recipe.tree) for recipe in seeds.values()]
        return made

    def run(self, body: bytes) -> str:
        steps = (1, 97, 97, 97, 5000, 1 << 20, 1 << 20)
        self._blob.step = steps[zlib.crc32(body) % 7] if len(body) < 5000 else 1 << 19
        self._blob.content = body
        ended = ["refused", "refused"]
        claims = (
            Claim(key=seeds.BLOB, size=len(body), sha256="0" * 64, form="json"),
            Claim(key=seeds.BLOB, size=1 << 30, sha256="0" * 64, form="text", sealed=True),
            Claim(key=seeds.BLOB, size=30, sha256="0" * 64, form="json", sealed=True),
        )
        for each in claims[zlib.crc32(body) & 1 :]:
            try:
                self._payloads.value(each)
            except CloudQError:
                continue
            raise Wrong("a payload of another hash is taken")
        try:
            for _ in opened(ENCRYPTION, seeds.BLOB, self._blob.read(seeds.BLOB)):
                ended[0] = "opened"
        except DecodeError:
            pass
        return ended[0]

    def close(self) -> None: ...


def codec_targets() -> list[Target]:
    """Make the targets that need no worker."""
    return [
        Messages("messages", 0.24, seeds.messages()),
        Messages("bundles", 0.1, seeds.bundled()),
        Messages("celery", 0.13, seeds.celery()),
        Shown(),
        Values(),
        SealedPayloads(),
    ]
