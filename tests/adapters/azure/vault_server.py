"""A small Key Vault: RSA keys with versions over https, and an identity endpoint that gives tokens.

It answers as the REST API of version 7.4 does: a challenge without a token, errors with their inner
ones. What it does not do: rotation by itself, other algorithms, network rules, and roles.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
SECRET = "the-header-of-this-function-app"
_TOKEN = "a-token-for-"


@dataclass
class VaultServer:
    """The state of the service. `asked` are the operations, in order, that had a token."""

    port: int = 0
    tokens: int = 0
    """The port of the identity endpoint."""
    keys: dict[str, dict[str, rsa.RSAPrivateKey]] = field(default_factory=dict[str, Any])
    disabled: set[str] = field(default_factory=set[str])
    asked: list[str] = field(default_factory=list[str])
    fails: int | None = None
    refuses: int = 0
    """The number of requests that it is too busy for."""
    page: bytes | None = None
    """The body of a page of somebody in between, with the status 200."""

    def make(self, key: str) -> str:
        """Make a key, or a new version of it, and return the version."""
        version = uuid.uuid4().hex
        made = rsa.generate_private_key(65537, 2048) if self.keys.get(key) else _first_key(key)
        self.keys.setdefault(key, {})[version] = made
        return version

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the content that answer a request."""
        url = urlsplit(path)
        _, _, key, version, operation = url.path.split("/")
        if token != f"Bearer {_TOKEN}https://vault.azure.net":
            return 401, _error("Unauthorized", "AKV10000: Request is missing a Bearer token.")
        self.asked.append(operation)
        if self.refuses:
            self.refuses -= 1
            return 503, _error("ServiceUnavailable", "The service is busy.")
        if self.fails is not None:
            return self.fails, _error("Told", "The service is told to fail.")
        assert parse_qs(url.query) == {"api-version": ["7.4"]}
        versions = self.keys.get(key, {})
        found = version or next(reversed(versions), "")
        if found not in versions:
            return 404, _error(
                "KeyNotFound", f"A key with (name/id) {key}/{version} was not found."
            )
        if key in self.disabled:
            said = f"Operation {operation} is not allowed on a disabled key."
            return 403, _error("Forbidden", said, inner="KeyDisabled")
        given = json.loads(body)
        if given["alg"] != "RSA-OAEP-256":
            return 400, _error("BadParameter", "Property  has invalid value")
        value = base64.urlsafe_b64decode(given["value"] + "==")
        private = versions[found]
        try:
            if operation == "wrapkey":
                made = private.public_key().encrypt(value, OAEP)
            else:
                made = private.decrypt(value, OAEP)
        except ValueError:
            return 400, _error("BadParameter", "The parameter is incorrect.")
        text = base64.urlsafe_b64encode(made).rstrip(b"=").decode()
        return 200, {"kid": f"https://shop.vault.azure.net/keys/{key}/{found}", "value": text}


@cache
def _first_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _error(code: str, message: str, inner: str | None = None) -> dict[str, Any]:
    more = {"innererror": {"code": inner}} if inner else {}
    return {"error": {"code": code, "message": message, **more}}


def _vault(state: VaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, told = state.answer(self.path, body, self.headers.get("Authorization", ""))
            page = state.page if state.page is not None else json.dumps(told).encode()
            self.send_response(200 if state.page is not None else status)
            if status == 401:
                resource = 'resource="https://vault.azure.net"'
                where = 'authorization="https://login.microsoftonline.com/tenant"'
                self.send_header("WWW-Authenticate", f"Bearer {where}, {resource}")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler


class _Identity(BaseHTTPRequestHandler):
    """The endpoint at which a function app gets tokens of its managed identity."""

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        known = self.headers.get("X-IDENTITY-HEADER") == SECRET
        told = {
            "access_token": _TOKEN + asked["resource"][0],
            "expires_on": str(int(time.time()) + 86_400),
            "resource": asked["resource"][0],
            "token_type": "Bearer",
        }
        body = json.dumps(told if known else {}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


def _certificate(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 and its key into one file."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault of tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "vault.pem"
    private = key.private_bytes(serialization.Encoding.PEM, *form)
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file


@contextmanager
def _running(server: ThreadingHTTPServer) -> Generator[int]:
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_vault(folder: Path) -> Generator[tuple[VaultServer, dict[str, str]]]:
    """A vault for the length of the block, and the environment of an app that reaches it."""
    state = VaultServer()
    certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    vault = ThreadingHTTPServer(("127.0.0.1", 0), _vault(state))
    vault.socket = context.wrap_socket(vault.socket, server_side=True)
    with ExitStack() as stack:
        state.port = stack.enter_context(_running(vault))
        identity = ThreadingHTTPServer(("127.0.0.1", 0), _Identity)
        state.tokens = stack.enter_context(_running(identity))
        yield (
            state,
            {
                "IDENTITY_ENDPOINT": f"http://127.0.0.1:{state.tokens}/msi/token",
                "IDENTITY_HEADER": SECRET,
                "REQUESTS_CA_BUNDLE": str(certificate),
            },
        )
