"""Encodes a message in the form that its call, its queue and the settings ask for, and decodes it.

A plain message is the JSON of `cloudq.messages.body`. A message that is signed, compressed or in
another notation travels in a sealed envelope, which names its form in the clear and has the
message for its `body`:
`{"v":2,"key":..,"sig":..,"app":..,"queue":..,"until":..,"type":..,"zip":..,"body":..}`. Older
releases dead-letter it as a version that they do not know. An encrypted message has an envelope of
version 4 (see `cloudq.messages.encryption`): it is compressed, then encrypted, then signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Self

import orjson

from cloudq.clock import Clock, real_time
from cloudq.driver.ends import pass_ends
from cloudq.driver.forks import imported
from cloudq.driver.immutable import immutable
from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import decode, encode, fields_of, version_of
from cloudq.messages.bundle import BUNDLE_VERSION, START, Bundle, Unread, read_bundle, write_bundle
from cloudq.messages.compression import COMPRESSIONS, compress, expand
from cloudq.messages.envelope import ENCRYPTED, SEALED, bare, content_text, data_of
from cloudq.messages.formats import MessageFormat, find_format
from cloudq.messages.json_text import has_unusual, json_text
from cloudq.messages.message import TaskMessage
from cloudq.messages.optional import library
from cloudq.messages.plain_calls import PlainCalls
from cloudq.messages.sealed_text import is_sealed, unknown_key, why_sealed
from cloudq.messages.serializers import PICKLE, SERIALIZERS, plain_json, written
from cloudq.messages.signing import Keyring
from cloudq.messages.size import check_text
from cloudq.settings import Settings, format_names
from cloudq.text import describe

if TYPE_CHECKING:  # loaded where there are encryption keys
    from cloudq.messages.encryption import Encryption

_ENVELOPES = (SEALED, ENCRYPTED)
_UNENCRYPTED = "not encrypted: this app accepts only what one of its encryption_keys has encrypted"
_PLAIN = (None, None, None)
_LIBRARIES = {"msgpack": "msgpack", "yaml": "yaml"}
_CLOCKS = 60.0  # seconds that the clocks of two machines may differ


@immutable
class Codec:
    """Writes and reads the bodies of one app, of at most `limit` bytes.

    `accept` are the serializers that it reads, `apps` the apps whose signatures count, and
    `formats` the names of the foreign formats that are read too, by queue. With `signed_only` an
    unsigned message is refused, with `encrypted_only` one that is not encrypted.
    `signature_expires` is how long a signature counts, in seconds.
    """

    limit: int = 16_777_216
    app: str = "cloudq"
    accept: frozenset[str] = frozenset({"json"})
    keyring: Keyring = field(default_factory=Keyring)
    apps: frozenset[str] = frozenset()
    signed_only: bool = False
    encryption: Encryption | None = None
    encrypted_only: bool = False
    signature_expires: float | None = None
    formats: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    clock: Clock = real_time

    @classmethod
    def of(
        cls,
        conf: Settings,
        app: str,
        *,
        clock: Clock = real_time,
        encryption: Encryption | None = None,
    ) -> Self:
        """The codec that an app's settings describe. Raises `ConfigurationError`."""
        for name in conf.accept_content:
            if name in _LIBRARIES:
                library(_LIBRARIES[name], extra=name)
        keys = {name: key.get_secret_value().encode() for name, key in conf.signing_keys.items()}
        return cls(
            limit=conf.max_body,
            app=app,
            accept=frozenset(conf.accept_content),
            keyring=Keyring(keys=keys, signs=conf.signing_key or next(iter(keys), None)),
            apps=frozenset({app, *conf.signing_apps}),
            signed_only=bool(keys) and conf.signing_required,
            encryption=encryption,
            encrypted_only=encryption is not None and encryption.required,
            signature_expires=conf.signing_expires,
            formats=dict(conf.queue_accept),
            clock=clock,
        )

    # ---- writing

    def encode(self, message: TaskMessage) -> bytes:
        """Write the body of a message. Raises `EncodeError`, `ConfigurationError`."""
        foreign = find_format(message.protocol) if message.protocol is not None else None
        if foreign is not None:
            if self.encrypted_only:
                raise EncodeError(
                    f"{message.task}: a message in {foreign.title}'s form cannot be encrypted, and "
                    "encryption_required is on"
                )
            return foreign.write(message)
        plain = encode(message)
        signs = self.keyring.signs is not None
        serializer = message.serializer or "json"
        if serializer == PICKLE and not (signs and PICKLE in self.accept):
            raise EncodeError(
                f'{message.task}: pickle is refused: it takes "pickle" in accept_content and '
                "signing_keys, here and at the worker"
            )
        if (
            serializer == "json"
            and message.compression is None
            and not signs
            and self.encryption is None
        ):
            return plain
        return self._sealed(message, serializer, plain, message.id, message.task)

    def encode_bundle(self, messages: Sequence[TaskMessage]) -> bytes:
        """Write the body of a message with calls of one bundle, in the form of the first.

        Raises `EncodeError`.
        """
        plain = write_bundle(messages)
        first = messages[0]
        if first.compression is None and self.keyring.signs is None and self.encryption is None:
            return plain
        tasks = {message.task for message in messages}
        return self._sealed(
            first, "json", plain, first.id[:-4], first.task if len(tasks) == 1 else None
        )

    def rewrapped(self, body: bytes, *, queue: str, id: str) -> bytes:
        """Sign and encrypt a plain body, that of a call which may be unreadable, for its queue."""
        if self.encryption is None and self.keyring.signs is None:
            return body
        return self._enveloped({}, queue, id, None, body)

    def _sealed(
        self, message: TaskMessage, serializer: str, plain: bytes, id: str, task: str | None
    ) -> bytes:
        data = written(serializer, plain)
        zipped = None
        if message.compression is not None:
            small = compress(message.compression, data)
            if len(small) * 4 < len(data) * 3:  # as text it grows by a third
                data, zipped = small, message.compression
        signs, encrypts = self.keyring.signs is not None, self.encryption is not None
        if zipped is None and serializer == "json" and not signs and not encrypts:
            return plain
        fields: dict[str, object] = {}
        if signs and self.signature_expires is not None:
            start = max(self.clock(), message.not_before or 0.0)
            fields["until"] = round(start + self.signature_expires, 3)
        if serializer != "json":
            fields["type"] = serializer
        if zipped is not None:
            fields["zip"] = zipped
        return self._enveloped(fields, message.queue, id, task, data)

    def _enveloped(
        self, fields: Mapping[str, object], queue: str, id: str, task: str | None, data: bytes
    ) -> bytes:
        """Encrypt the data of an envelope, then sign it."""
        signs, sealing = self.keyring.signs is not None, self.encryption
        bound = {"app": self.app, "queue": bare(queue)}
        if sealing is not None:
            bound["id"] = id
            if task is not None and not sealing.hides_task:
                bound["task"] = task
            rest = sealing.sealed(self.app, {**bound, **fields}, data)
            return self.keyring.signed(rest, 4) if signs else ENCRYPTED + rest
        fields = {**(bound if signs else {}), **fields}
        rest = json_text(fields)[1:-1] + (b"," if fields else b"")
        rest += b'"body":%b}' % content_text(
            str(fields.get("type", "json")), fields.get("zip"), data
        )
        return self.keyring.signed(rest) if signs else b'{"v":2,' + rest

    # ---- reading

    def decode(self, body: bytes, *, queue: str, limit: int) -> TaskMessage:
        """Read a body, found in `queue`, that is and opens to at most `limit` bytes.

        A signature is checked before anything else is read. Raises `DecodeError` with the reason
        for which the message is dead-lettered, also for a bundle.
        """
        read = self.read(body, queue=queue, limit=limit)
        if isinstance(read, Bundle):
            raise DecodeError(f"a bundle of {len(read.calls)} calls, where one call is expected")
        return read

    def read(self, body: bytes, *, queue: str, limit: int) -> TaskMessage | Bundle:
        """Read a body as `decode`, one with many calls too."""
        try:
            return self._decoded(body, queue, limit)
        except Exception:
            raise
        except BaseException as error:  # the panic of a library in Rust
            pass_ends(error)
            raise DecodeError(f"undecodable: {describe(error)}") from error

    def _decoded(self, body: bytes, queue: str, limit: int) -> TaskMessage | Bundle:
        if body.startswith(_ENVELOPES):
            if len(body) > limit * 4 // 3 + 4096:
                raise DecodeError(f"oversized: {len(body):,} bytes, this app accepts {limit:,}")
            return self._opened(body, queue, limit)
        if self.formats:
            for foreign in self._foreign(queue):
                try:
                    message = foreign.read(body, queue, limit, self.accept)
                    if message is not None:
                        return self._checked(message, signed=False)
                except DecodeError as error:
                    error.fields = None if self.signed_only else foreign.fields(body)
                    raise
        if self.signed_only:
            raise DecodeError("unsigned: this app accepts only what one of its keys has signed")
        if self.encrypted_only:
            raise DecodeError(_UNENCRYPTED)
        return self._plain(body, limit, signed=False)

    def _plain(self, body: bytes, limit: int, *, signed: bool) -> TaskMessage | Bundle:
        if not body.startswith(START):
            try:
                return self._checked(decode(body, limit=limit), signed=signed)
            except DecodeError as error:
                if version_of(body) != BUNDLE_VERSION:  # another may write its keys in any order
                    error.fields = fields_of(body)
                    raise
        bundle = read_bundle(body, limit=limit)
        calls = bundle.calls
        if isinstance(calls, PlainCalls) and self._call(calls[0], signed=signed) is calls[0]:
            return bundle  # what is true of one is true of all
        return replace(bundle, calls=[self._call(call, signed=signed) for call in bundle.calls])

    def _call(self, call: TaskMessage | Unread, *, signed: bool) -> TaskMessage | Unread:
        """Refuse a call of a bundle as `_checked`, and no other with it."""
        if isinstance(call, Unread):
            return call
        try:
            return self._checked(call, signed=signed)
        except DecodeError as error:
            return Unread(body=encode(call), reason=str(error))

    # ---- what is stored to be sent later

    def seal(self, place: str, text: str) -> Mapping[str, str]:
        """Return the field that signs a text for its place in the store; none without keys."""
        if self.keyring.signs is None:
            return {}
        return {"seal": self.keyring.seal(self.app, place, text)}

    def check_seal(self, fields: Mapping[str, object], place: str, text: str) -> None:
        """Check the signature of a stored text. Raises `DecodeError`."""
        if is_sealed(text):
            raise DecodeError(why_sealed(text))
        seal = fields.get("seal")
        if isinstance(seal, str) and self.keyring.keys:
            app = self.keyring.sealed_by(seal, place, text)
            if app not in self.apps:
                raise DecodeError(
                    f"bad signature: it is app {app!r}'s, which is not in signing_apps"
                )
        elif self.signed_only:
            raise DecodeError(f"{place} is unsigned: this app sends only what its keys have signed")

    def _foreign(self, queue: str) -> Iterator[MessageFormat]:
        """The foreign formats that are read in a queue."""
        names = dict.fromkeys((*self.formats.get(queue, ()), *self.formats.get(bare(queue), ())))
        for name in names:
            found = find_format(name)
            if found is not None:  # cloudq's own is none
                yield found

    def _opened(self, body: bytes, queue: str, limit: int) -> TaskMessage | Bundle:
        rest = self.keyring.verified(body)
        signed = rest is not None
        if not signed and self.signed_only:
            raise DecodeError("unsigned: this app accepts only what one of its keys has signed")
        if body.startswith(ENCRYPTED):
            return self._decrypted(rest or body[len(ENCRYPTED) :], queue, limit, signed=signed)
        if self.encrypted_only:
            raise DecodeError(_UNENCRYPTED)
        check_text(body)
        try:
            # orjson makes floats of large whole numbers; the other parser is slower.
            fields: dict[str, Any] = (
                imported("pydantic_core").from_json(body)
                if has_unusual(body)
                else orjson.loads(body)
            )
        except ValueError as error:
            raise DecodeError(f"undecodable: {error}") from error
        if signed:
            self._check_bound(fields, queue, "signature")
        serializer = fields.get("type", "json")
        self._check_type(serializer, signed=signed)
        data = data_of(fields, serializer)
        return self._content(fields, serializer, data, limit, signed=signed)

    def _decrypted(
        self, rest: bytes, queue: str, limit: int, *, signed: bool
    ) -> TaskMessage | Bundle:
        """Read the rest of an encrypted envelope, whose signature is verified if it has one."""
        module = imported("cloudq.messages.encryption")
        fields: dict[str, Any] = module.header_of(rest)
        if self.encryption is None:
            raise DecodeError(unknown_key(fields["with"]))
        self._check_bound(fields, queue, "seal")
        serializer = fields.get("type", "json")
        self._check_type(serializer, signed=signed)
        data = self.encryption.opened(rest, fields)
        read = self._content(fields, serializer, data, limit, signed=signed)
        id = read.name if isinstance(read, Bundle) else read.id
        if id != fields["id"]:
            raise DecodeError(f"bad seal: it is for id {fields['id']!r}, not for {id!r}")
        return read

    def _content(
        self,
        fields: Mapping[str, Any],
        serializer: str,
        data: bytes,
        limit: int,
        *,
        signed: bool,
    ) -> TaskMessage | Bundle:
        if "zip" in fields:
            data = expand(str(fields["zip"]), data, limit=limit)
        read = self._plain(plain_json(serializer, data), limit, signed=signed)
        own = "json" if isinstance(read, Bundle) else read.serializer or "json"
        if own != serializer:
            raise DecodeError(f"undecodable: {serializer} around {own}")
        return read

    def _check_bound(self, fields: Mapping[str, Any], queue: str, what: str) -> None:
        app, place, until = fields.get("app"), fields.get("queue"), fields.get("until")
        if not isinstance(app, str) or app not in self.apps:
            raise DecodeError(f"bad {what}: it is app {app!r}'s, which is not in signing_apps")
        if place != bare(queue):
            raise DecodeError(f"bad {what}: it is for queue {place!r}, not for {queue!r}")
        if until is None:
            return
        if not isinstance(until, int | float) or not self.clock() - _CLOCKS <= until:
            raise DecodeError(f"bad {what}: it has expired")

    def _check_type(self, serializer: object, *, signed: bool) -> None:
        if serializer not in SERIALIZERS:
            known = ", ".join(SERIALIZERS)
            raise DecodeError(f"unknown content type {serializer!r}: this release reads {known}")
        if serializer not in self.accept:
            raise DecodeError(f"content type {serializer!r} is not in this app's accept_content")
        if serializer == PICKLE and not signed:
            raise DecodeError("content type 'pickle' is refused: the message is not signed")

    def _checked(self, message: TaskMessage, *, signed: bool) -> TaskMessage:
        """Refuse a message whose copies could not be written, or not be read again."""
        form = message.serializer, message.compression, message.protocol
        if form == _PLAIN:
            return message
        wrong = unknown_form(*form)
        if wrong:
            raise DecodeError(f"undecodable: {wrong}")
        if message.serializer not in (None, "json"):
            self._check_type(message.serializer, signed=signed)
        return message


def unknown_form(
    serializer: str | None, compression: str | None, protocol: str | None = None
) -> str | None:
    """Says which part of the form that a task or a call asks for is unknown; None for none."""
    if serializer is not None and serializer not in SERIALIZERS:
        return _unknown("serializer", serializer, SERIALIZERS)
    if compression is not None and compression not in COMPRESSIONS:
        return _unknown("compression", compression, COMPRESSIONS)
    if protocol is not None and protocol not in format_names():
        return _unknown("protocol", protocol, format_names())
    return None


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    return f"there is no {what} {name!r}: known: {', '.join(known)}"
