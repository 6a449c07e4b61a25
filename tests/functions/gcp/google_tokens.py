"""A signer of OIDC tokens as Google's, with an endpoint that publishes its keys."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

AUDIENCE = "https://tasks.example.com/push"
EMAIL = "pusher@project.iam.gserviceaccount.com"


class Signer:
    """A private key with a certificate of its own, and the tokens that it signs."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self._signer = crypt.RSASigner.from_string(pem, key_id)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()

    def token(self, **claims: Any) -> str:
        """A token like a push subscription's; `claims` replace its own, and None leaves one out."""
        return jwt.encode(self._signer, _claims(claims)).decode()


def unsigned(**claims: Any) -> str:
    """A token that says that it needs no signature."""
    parts = ({"alg": "none", "typ": "JWT"}, _claims(claims))
    encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().strip("=") for p in parts]
    return ".".join([*encoded, ""])


def _claims(given: Mapping[str, Any]) -> dict[str, Any]:
    now = int(time.time())
    claims: dict[str, Any] = {
        "aud": AUDIENCE,
        "azp": "113774264463038321964",
        "email": EMAIL,
        "email_verified": True,
        "iat": now,
        "exp": now + 3600,
        "iss": "https://accounts.google.com",
        "sub": "113774264463038321964",
    }
    return {name: value for name, value in (claims | given).items() if value is not None}


class Keys:
    """The endpoint's answer, and the number of times it was asked."""

    def __init__(self, *signers: Signer) -> None:
        self.published = {signer.key_id: signer.certificate for signer in signers}
        self.headers = {"Cache-Control": "public, max-age=3600"}
        self.status = 200
        self.body: bytes | None = None  # in place of the keys
        self.asked = 0
        self.url = ""


@contextmanager
def publishing(keys: Keys) -> Iterator[Keys]:
    """Serve the keys on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.asked += 1
            body = json.dumps(keys.published).encode() if keys.body is None else keys.body
            self.send_response(keys.status)
            for name, value in keys.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    keys.url = f"http://127.0.0.1:{server.server_port}/certs"
    try:
        yield keys
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
