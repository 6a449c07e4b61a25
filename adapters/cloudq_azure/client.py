"""Makes the SDK's clients of one Service Bus namespace from a broker's URL."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from azure.core.credentials import TokenCredential
from azure.servicebus import ServiceBusClient, parse_connection_string
from azure.servicebus.management import ServiceBusAdministrationClient

from cloudq.driver import Address
from cloudq.errors import ConfigurationError
from cloudq_azure.answers import Believed, of_queues
from cloudq_azure.identity import Identity

_OPTIONS = ("admin", "emulator", "lock", "prefix", "tier")
_VARIABLES = ("AZURE_SERVICEBUS_CONNECTION_STRING", "SERVICEBUS_CONNECTION_STRING")
_DOMAIN = ".servicebus.windows.net"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_LOCAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]+")
# The emulators take every key.
_EMULATED = "SharedAccessKeyName=emulator;SharedAccessKey=emulator"
_LONGEST_LOCK = 300.0

# Tries beside the first, and seconds: the SDK's own would go on for minutes. One more try is
# wanted, since Azure ends a link that was idle for ten minutes.
_RETRIES = 1
_BACKOFF, _LONGEST_BACKOFF = 0.1, 0.5
ATTEMPT = 5.0
"""Seconds that opening a link or asking for something may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Access to a namespace: its host, its credentials, and the options of its URL."""

    host: str
    connection: str | None
    admin_host: str | None
    emulator: bool
    premium: bool
    lock: float | None
    prefix: str

    def credential(self) -> TokenCredential:
        """The identity of this machine, function or user."""
        return Identity(_VARIABLES[0])

    def client(self, *, retries: int = _RETRIES) -> ServiceBusClient:
        """A client for messages. Opens nothing."""
        options: dict[str, Any] = {
            "retry_total": retries,
            "retry_backoff_factor": _BACKOFF,
            "retry_backoff_max": _LONGEST_BACKOFF,
            "try_timeout": ATTEMPT,
        }
        if self.connection is None:
            return ServiceBusClient(self.host, self.credential(), **options)
        return ServiceBusClient.from_connection_string(self.connection, **options)

    def admin(self) -> ServiceBusAdministrationClient:
        """A client for queues. Opens nothing."""
        options: dict[str, Any] = {
            "retry_total": _RETRIES,
            "retry_backoff_factor": _BACKOFF,
            "connection_timeout": ATTEMPT,
            "read_timeout": 4 * ATTEMPT,
        }
        options["transport"] = Believed(of_queues)
        if self.connection is None:
            return ServiceBusAdministrationClient(self.host, self.credential(), **options)
        connection = self.connection
        if self.admin_host is not None:
            connection = _emulated(self.admin_host)
            options["transport"] = _PlainTransport(of_queues)
        return ServiceBusAdministrationClient.from_connection_string(connection, **options)


class _PlainTransport(Believed):
    """Sends requests to an emulator's administration over http, where the SDK insists on https."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def access(address: Address) -> Access:
    """Read the URL and find credentials. Raises `ConfigurationError`; sends no request."""
    unknown = [name for name in address.options if name not in _OPTIONS]
    if unknown:
        raise ConfigurationError(
            f"servicebus:// has no option {unknown[0]!r}; it knows {', '.join(_OPTIONS)}"
        )
    if address.path:
        raise ConfigurationError(
            f"{address.url} has a path: the namespace is all, as servicebus://mynamespace"
        )
    emulator = _choice(address, "emulator", ("false", "true")) == "true"
    admin = address.options.get("admin")
    if admin is not None and not (emulator and _LOCAL.fullmatch(admin)):
        raise ConfigurationError(
            f"admin={admin}: it is an emulator's host and port, as"
            " servicebus://127.0.0.1:5672?emulator=true&admin=127.0.0.1:5300"
        )
    host, connection = _emulator(address) if emulator else _namespace(address)
    return Access(
        host=host,
        connection=connection,
        admin_host=admin,
        emulator=emulator,
        premium=_choice(address, "tier", ("standard", "premium")) == "premium",
        lock=_lock(address),
        prefix=address.options.get("prefix", ""),
    )


def _emulator(address: Address) -> tuple[str, str]:
    if not _LOCAL.fullmatch(address.host):
        raise ConfigurationError(
            f"{address.url} names no host and port: an emulator is written"
            " servicebus://127.0.0.1:5672?emulator=true"
        )
    return address.host, _emulated(address.host)


def _emulated(host: str) -> str:
    return f"Endpoint=sb://{host};{_EMULATED};UseDevelopmentEmulator=true"


def _namespace(address: Address) -> tuple[str, str | None]:
    """The namespace's host, and the connection string if there is one."""
    if not _HOST.fullmatch(address.host):
        raise ConfigurationError(
            f"{address.url or 'servicebus://'} names no namespace: write"
            " servicebus://mynamespace, or its whole host name"
        )
    host = address.host if "." in address.host else address.host + _DOMAIN
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return host, None
    text = os.environ[variable]
    try:
        named = parse_connection_string(text).fully_qualified_namespace
    except ValueError as error:
        raise ConfigurationError(f"{variable} is no connection string: {error}") from error
    if named.lower() != host.lower():
        raise ConfigurationError(f"{variable} is of {named}, and {address.url} is {host}")
    return host, text


def _choice(address: Address, name: str, choices: tuple[str, ...]) -> str:
    value = address.options.get(name, choices[0]).lower()
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r}: use one of {', '.join(choices)}")
    return value


def _lock(address: Address) -> float | None:
    text = address.options.get("lock")
    if text is None:
        return None
    try:
        lock = float(text)
    except ValueError:
        lock = 0.0
    if not 0 < lock <= _LONGEST_LOCK:
        raise ConfigurationError(
            f"lock={text!r}: give the queues' lock duration in seconds, {_LONGEST_LOCK:g} at most"
        )
    return lock
