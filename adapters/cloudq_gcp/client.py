"""From a URL to a channel of gRPC: which project, where, and with whose rights."""

# google-auth is typed in part only, and grpc not at all.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import google.auth
import grpc
from google.api_core import grpc_helpers
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from grpc._cython import cygrpc

from cloudq.driver import Address
from cloudq.driver.forks import is_inherited, renew_after_fork
from cloudq.errors import ConfigurationError
from cloudq_gcp.rest import Rest

# Else gRPC starts its own threads anew in a child, where some crash: it reads this when it is first
# used. A value that is set stays.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

C = TypeVar("C")

Channel = grpc.Channel | Rest
"""An open connection to a host."""

_COMMON = ("emulator", "endpoint")
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
# Where the project is, if the URL does not say; the last is what the emulator's own tool sets.
_PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "PUBSUB_PROJECT_ID")

# Names of the threads of gRPC's library.
_THREADS = frozenset({"event_engine", "grpc_global_tim", "lifeguard"})

_CHANNEL = (
    # The load balancers in between forget a connection that is silent for long.
    ("grpc.keepalive_time_ms", 30_000),
    # gRPC's own patience with a host that does not answer is 20 s.
    ("grpc.min_reconnect_backoff_ms", 4_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 4 << 20),  # what was refused of a batch comes as metadata
)


class _Grpc:
    """Tells whether gRPC works in this process; it has one, as it has one library of gRPC's.

    It does not where a parent process has used it, by channels of ours or by others.
    """

    def __init__(self) -> None:
        self.is_used = False
        self.is_lost = is_inherited("grpc")  # whose threads, if it had any, are not here
        os.register_at_fork(before=self._before_fork)
        renew_after_fork(self, _Grpc._in_child)

    def _before_fork(self) -> None:
        """Look for others' channels, whose threads a child may not have."""
        self.is_used = self.is_used or _has_threads()

    def _in_child(self) -> None:
        self.is_lost = self.is_lost or self.is_used


def _has_threads() -> bool:
    """Tell whether gRPC's own threads run here; on Linux, where they are seen."""
    found: set[str] = set()
    for names in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # a thread that has ended
            found.add(names.read_text().strip())
    return not _THREADS.isdisjoint(found)


GRPC = _Grpc()
"""The gRPC of this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Access to a project's services; there are no credentials with an emulator."""

    project: str
    emulator: str | None
    endpoint: str | None
    credentials: Any

    def channel(self, host: str, *, plain: bool = False) -> Channel:
        """A channel to a host, safe from many threads; `plain` without TLS and credentials."""
        if GRPC.is_lost:
            return Rest(host, self.credentials, plain=plain)
        GRPC.is_used = True
        if plain:
            channel = grpc.insecure_channel(host, options=_CHANNEL)
        else:
            channel = grpc_helpers.create_channel(
                host if ":" in host else f"{host}:443",
                credentials=self.credentials,
                default_scopes=_SCOPES,
                options=_CHANNEL,
            )
        # With GRPC_ENABLE_FORK_SUPPORT=1 each fork cancels, in the child, the calls of channels
        # that are on this list, and waits there for ever for locks of the parent's threads.
        cygrpc.fork_unregister_channel(channel)
        return channel


def client(kind: type[C], channel: Channel, host: str) -> C:
    """A client of Google's of this kind, safe from many threads."""
    chosen = cast("Any", kind)
    if isinstance(channel, Rest):
        return chosen(transport=channel.transport(chosen.get_transport_class("rest")))
    return chosen(transport=chosen.get_transport_class("grpc")(host=host, channel=channel))


def access(
    address: Address,
    *,
    options: tuple[str, ...] = (),
    emulator_variable: str = "PUBSUB_EMULATOR_HOST",
    needs_project: bool = True,
) -> Access:
    """Read the URL's options, find project and credentials. Raises `ConfigurationError`.

    `options` are those that the caller reads itself. What the URL leaves open comes from the
    normal environment of Google's libraries: variables, `gcloud auth`, the machine's account.
    The project is the URL's host, or its option `project` where none is needed.
    """
    known = sorted((*_COMMON, *options))
    unknown = [name for name in address.options if name not in known]
    if unknown:
        raise ConfigurationError(
            f"{address.scheme}:// has no option {unknown[0]!r}; it knows {', '.join(known)}"
        )
    endpoint = address.options.get("endpoint") or None
    emulator = address.options.get("emulator") or None
    if emulator and endpoint:
        raise ConfigurationError(f"{address.url} has an emulator and an endpoint: one or the other")
    # An emulator that the environment names yields to what the URL says.
    emulator = emulator or (None if endpoint else os.environ.get(emulator_variable) or None)
    credentials, implied = (None, None) if emulator else _credentials(address.scheme)
    named = (os.environ.get(name) for name in _PROJECT_VARIABLES)
    given = address.host if needs_project else address.options.get("project")
    project = given or next(filter(None, named), None) or implied or ""
    if not project and needs_project:
        raise ConfigurationError(
            f"no Google project for {address.scheme}://: write {address.scheme}://my-project,"
            " or set GOOGLE_CLOUD_PROJECT"
        )
    if project and not _PROJECT.fullmatch(project):
        raise ConfigurationError(
            f'"{project}" in {address.url or address.scheme} is not the id of a Google project'
        )
    return Access(project=project, emulator=emulator, endpoint=endpoint, credentials=credentials)


def _credentials(scheme: str) -> tuple[Any, str | None]:
    try:
        return cast("tuple[Any, str | None]", google.auth.default(scopes=_SCOPES))
    except DefaultCredentialsError as error:
        raise ConfigurationError(
            f"no Google credentials for {scheme}://: run `gcloud auth application-default login`,"
            " or set GOOGLE_APPLICATION_CREDENTIALS, or give the machine or function an account"
        ) from error
    except GoogleAuthError as error:  # a file of credentials that cannot be used
        raise ConfigurationError(f"{scheme}://: {error}") from error
