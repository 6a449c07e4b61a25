"""A small Cloud KMS: keys with versions, AES-256-GCM, checksums, and the SDK's own protocol.

What it does not do: key rings, rotation by itself, protection levels, asymmetric keys, and rights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1.types import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
)

from cloudq_gcp.crc32c import crc32c

_SERVICE = "google.cloud.kms.v1.KeyManagementService"


@dataclass
class KmsServer:
    """The state of the service. `asked` are the methods and metadata of requests, in order."""

    port: int = 0
    keys: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    disabled: set[str] = field(default_factory=set[str])
    asked: list[str] = field(default_factory=list[str])
    routed: list[str] = field(default_factory=list[str])
    fails: grpc.StatusCode | None = None
    refuses: int = 0
    """The number of requests that it does not take, as when it is moved to another machine."""
    spoils: str = ""
    """The field of answers whose bytes are damaged on their way."""

    def make(self, key: str) -> str:
        """Make a key, or a new primary version of it, and return its name."""
        name = f"projects/shop/locations/europe-west1/keyRings/cloudq/cryptoKeys/{key}"
        self.keys.setdefault(name, []).append(AESGCM.generate_key(256))
        return name

    def encrypt(self, request: EncryptRequest, context: grpc.ServicerContext) -> EncryptResponse:
        versions = self._versions("Encrypt", request.name, context)
        _verify(request, ("plaintext", "additional_authenticated_data"), context)
        nonce, bound = os.urandom(12), request.additional_authenticated_data
        made = AESGCM(versions[-1]).encrypt(nonce, request.plaintext, bound)
        text = bytes([len(versions) - 1]) + nonce + made
        return EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/{len(versions)}",
            ciphertext=self._sent("ciphertext", text),
            ciphertext_crc32c=crc32c(text),
            verified_plaintext_crc32c="plaintext_crc32c" in request and self.spoils != "verified",
            verified_additional_authenticated_data_crc32c=(
                "additional_authenticated_data_crc32c" in request
            ),
        )

    def decrypt(self, request: DecryptRequest, context: grpc.ServicerContext) -> DecryptResponse:
        versions = self._versions("Decrypt", request.name, context)
        if self.spoils == "request":
            request.ciphertext = request.ciphertext + b"x"
        _verify(request, ("ciphertext", "additional_authenticated_data"), context)
        text = request.ciphertext
        try:
            version = AESGCM(versions[text[0]])
            plain = version.decrypt(text[1:13], text[13:], request.additional_authenticated_data)
        except (InvalidTag, IndexError, ValueError):
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
            )
        return DecryptResponse(
            plaintext=self._sent("plaintext", plain), plaintext_crc32c=crc32c(plain)
        )

    def _versions(self, method: str, name: str, context: grpc.ServicerContext) -> list[bytes]:
        self.asked.append(method)
        metadata: Iterable[Any] = context.invocation_metadata()
        self.routed += [value for key, value in metadata if key == "x-goog-request-params"]
        if self.refuses:
            self.refuses -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")
        if self.fails is not None:
            context.abort(self.fails, "the service is told to fail")
        if name not in self.keys:
            context.abort(grpc.StatusCode.NOT_FOUND, f"CryptoKey {name} not found.")
        if name in self.disabled:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}/cryptoKeyVersions/1 is not enabled, current state is: DISABLED.",
            )
        return self.keys[name]

    def _sent(self, name: str, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if self.spoils == name else data


def _verify(request: Any, names: Iterable[str], context: grpc.ServicerContext) -> None:
    for name in names:
        sum_of = f"{name}_crc32c"
        if sum_of in request and getattr(request, sum_of) != crc32c(getattr(request, name)):
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The checksum in field {sum_of} did not match the data in field {name}.",
            )


def _handlers(state: KmsServer) -> grpc.GenericRpcHandler:
    methods: dict[str, tuple[Callable[..., Any], Any, Callable[[Any], bytes]]] = {
        "Encrypt": (state.encrypt, EncryptRequest, EncryptResponse.serialize),
        "Decrypt": (state.decrypt, DecryptRequest, DecryptResponse.serialize),
    }
    return grpc.method_handlers_generic_handler(
        _SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=request.deserialize, response_serializer=serialize
            )
            for name, (call, request, serialize) in methods.items()
        },
    )


@contextmanager
def serving_keys() -> Generator[KmsServer]:
    """A server on a free port for the length of the block."""
    state = KmsServer()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((_handlers(state),))
        state.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield state
        finally:
            server.stop(None).wait()
