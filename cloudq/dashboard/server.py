"""Serves the dashboard: checks where it listens and who may use it, then runs uvicorn."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from cloudq.app import CloudQ
from cloudq.dashboard.access import Access
from cloudq.dashboard.connections import Connection
from cloudq.dashboard.render import prepare
from cloudq.dashboard.site import asgi
from cloudq.errors import ConfigurationError

_QUEUED = 128
_NICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The address of a dashboard, and the names and the path by which browsers call it."""

    host: str = "127.0.0.1"
    port: int = 5555
    hosts: Sequence[str] = ()
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine reaches it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def check(place: Place, access: Access) -> None:
    """Refuse a dashboard that strangers could use. Raises `ConfigurationError`."""
    if access.is_open and not place.is_loopback:
        raise ConfigurationError(
            f"the dashboard has no user, and {place.host} can be reached from other machines: add "
            "--password-file FILE, --token TOKEN, or --proxy-user-header NAME with --proxy ADDRESS"
        )


def bound(place: Place) -> socket.socket:
    """Listen at a place. Raises `ConfigurationError` where that cannot be."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((place.host.strip("[]"), place.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {place.host}:{place.port}: {error.strerror or error}; another port "
            "is --port NUMBER"
        ) from error
    listener.listen(_QUEUED)
    return listener


def made(app: CloudQ, place: Place, access: Access, refresh: float | None) -> ASGIApp:
    """Make the dashboard of a place, ready for its first reader. Raises `ConfigurationError`."""
    names = [*place.hosts, *([] if place.is_loopback else [place.host])]
    site = asgi(app, access=access, hosts=names, refresh=refresh)
    prepare()
    return site


def run(site: ASGIApp, listener: socket.socket, place: Place) -> None:
    """Serve until a signal ends it; the listener is closed then."""
    # Workers on this machine go first: who looks must not slow down what is looked at.
    os.nice(_NICE)
    with listener:
        uvicorn.Server(config(site, place.path)).run(sockets=[listener])


def config(
    site: ASGIApp, path: str = "", connection: type[Connection] = Connection
) -> uvicorn.Config:
    """Return the settings of a server that strangers can reach."""
    return uvicorn.Config(
        site,
        root_path=path,
        http=connection,
        log_level="warning",
        access_log=False,
        # Which peer is a proxy, and what it may say, is the gate's to judge.
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        # An open page never ends its request by itself.
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=32_768,
    )
